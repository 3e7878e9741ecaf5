"""A provider on loopback that speaks OpenAI's and Anthropic's wire formats to the real SDKs, and breaks on demand.

In a test: `async with ProviderServer() as server`, with `server.script(...)` for the next behaviours. As a process:
`python -m tests.support.provider_server --port 0`; it prints its URLs as one line of JSON, does what the requests'
own words ask for (see provider_behaviour), shows them at `GET /requests`, and ends with the process that started it.
Responses in the background are in provider_responses, shown at `GET /background`, and lost by
`POST /background/forget` with a model's name.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections import Counter, deque
from contextlib import suppress
from dataclasses import replace
from typing import Self

from tests.support import provider_frames, provider_responses
from tests.support.provider_behaviour import Behaviour, behaviour, turns
from tests.support.provider_http import Connection, Request

_PATHS = {"/v1/chat/completions": "openai", "/v1/messages": "anthropic", provider_responses.PATH: "responses"}


class ProviderServer:
    """The server; an async context manager. `requests` holds every request so far, in order."""

    def __init__(self, port: int = 0) -> None:
        self._wanted_port = port
        self._script: deque[Behaviour] = deque()
        self._again_script: deque[Behaviour] = deque()
        self._calls: Counter[str] = Counter()
        self._came = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self.connections: set[Connection] = set()
        self.requests: list[Request] = []
        self.background = provider_responses.Background()
        self.accepted = 0
        """How many connections were made."""

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, "127.0.0.1", self._wanted_port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self.background.close()
        await asyncio.gather(*(connection.close() for connection in set(self.connections)))
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def openai_url(self) -> str:
        """For OPENAI_BASE_URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def anthropic_url(self) -> str:
        """For ANTHROPIC_BASE_URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that send a worker here."""
        return {
            "OPENAI_BASE_URL": self.openai_url,
            "OPENAI_API_KEY": "test-openai-key",
            "ANTHROPIC_BASE_URL": self.anthropic_url,
            "ANTHROPIC_API_KEY": "test-anthropic-key",
        }

    def script(self, *behaviours: Behaviour) -> None:
        """What to do with the next requests, one each; after them the requests' own words count again."""
        self._script.extend(behaviours)

    def again(self, *behaviours: Behaviour) -> None:
        """How to refuse the next requests that read a background response again or cancel it, one each."""
        self._again_script.extend(behaviours)

    async def received(self, count: int = 1) -> Request:
        """The `count`-th request, once it is there. TimeoutError if it does not come."""
        async with asyncio.timeout(20), self._came:
            await self._came.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    def _connect(self) -> Connection:
        self.accepted += 1
        return Connection(self.connections, self._answer)

    async def _answer(self, connection: Connection, request: Request) -> None:
        """Do what the script or the request says."""
        vendor = _PATHS.get(request.path)
        again = request.path.startswith(provider_responses.PATH + "/")
        if vendor is None and not again:
            if request.path == "/background/forget":
                await self.background.forget(request.body["model"])
            self._show(connection, request.path.removesuffix("/forget"))
            return
        self.requests.append(request)
        async with self._came:
            self._came.notify_all()
        if vendor is None:
            await self._again(connection, request)
            return
        how = self._script.popleft() if self._script else self._asked(request)
        if how.fault == "refuse":
            connection.abort()
        elif how.fault == "hang":
            await request.left.wait()
        elif how.fault == "page":
            connection.whole(200, b"<html>a gateway's page</html>", ("content-type", "text/html"))
        elif how.status != 200:
            connection.whole(how.status, provider_frames.error_body(vendor, how), _JSON, *_IDS, *how.headers)
        elif vendor == "responses":
            await self.background.create(connection, request, how)
        else:
            await self._stream(connection, request, vendor, how)

    def _show(self, connection: Connection, path: str) -> None:
        shown = {
            "/requests": [known.summary for known in self.requests],
            "/background": [kept.summary() for kept in self.background.kept],
        }.get(path)
        connection.whole(200 if shown is not None else 404, json.dumps(shown).encode(), _JSON)

    async def _again(self, connection: Connection, request: Request) -> None:
        """Reading on and cancelling break by the script alone: `server.again(...)`."""
        how = self._again_script.popleft() if self._again_script else Behaviour()
        if how.fault == "refuse":
            connection.abort()
        elif how.fault == "hang":
            await request.left.wait()
        elif how.status != 200:
            connection.whole(how.status, provider_frames.error_body("openai", how), _JSON, *_IDS, *how.headers)
        else:
            await self.background.other(connection, request)

    def _asked(self, request: Request) -> Behaviour:
        if request.path == provider_responses.PATH:
            how = provider_responses.asked(request.body)
            key = json.dumps([request.body["model"], request.body["input"][:1]])
            # Faults in the stream count connections there, refusals count calls here.
            self._calls[key] += 1
            refused = how.status != 200 and 0 < how.times < self._calls[key]
            return replace(how, fault="") if refused else how
        how = behaviour(request.body)
        key = json.dumps([request.body["model"], turns(request.body)[:1]])
        self._calls[key] += 1
        return replace(how, fault="") if 0 < how.times < self._calls[key] else how

    async def _stream(self, connection: Connection, request: Request, vendor: str, how: Behaviour) -> None:
        frames = getattr(provider_frames, vendor)(request.body, how)
        connection.head(
            200, ("content-type", "text/event-stream; charset=utf-8"), ("transfer-encoding", "chunked"), *_IDS
        )
        now = asyncio.get_running_loop().time
        started = now() + how.first_ms / 1000
        for frame in frames.head:
            _send(connection, frame, how)
        for count, frame in enumerate(frames.content):
            if how.fault and how.fault not in {"empty", "late", "linger"} and count == how.after:
                break
            ahead_s = started + (count / how.rate if how.rate else 0) - now()
            await asyncio.sleep(max(0.0, ahead_s))
            if request.left.is_set():
                return
            _send(connection, frame, how)
        if how.fault == "late":
            _send(connection, frames.tail[0], how)
        if how.fault in {"", "empty", "linger"}:
            for frame in frames.tail:
                _send(connection, frame, how)
        if how.fault in {"", "empty"}:
            connection.write(b"0\r\n\r\n")
            connection.end()
            return
        await self._break(connection, request, vendor, how)

    async def _break(self, connection: Connection, request: Request, vendor: str, how: Behaviour) -> None:
        match how.fault:
            case "stall" | "linger":
                await request.left.wait()
                return
            case "drop" | "late":
                await connection.flush()
                connection.abort()
                return
            case "error":
                connection.chunk(provider_frames.error_frame(vendor, how))
            case "garbage":
                connection.chunk(provider_frames.garbage_frame(vendor))
        connection.write(b"0\r\n\r\n")
        connection.end()


_JSON = ("content-type", "application/json")
_IDS = (("x-request-id", "req_1"), ("request-id", "req_1"))


def _send(connection: Connection, frame: bytes, how: Behaviour) -> None:
    """One frame in one chunk of the body, or each of its bytes in a chunk of its own."""
    for part in [frame] if how.cut != "utf8" else [bytes([byte]) for byte in frame]:
        connection.chunk(part)


async def _serve(port: int) -> None:
    parent = os.getppid()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with ProviderServer(port) as server:
        sys.stdout.write(json.dumps({"port": server.port, **server.environment}) + "\n")
        sys.stdout.flush()
        while os.getppid() == parent and not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    asyncio.run(_serve(parser.parse_args().port))
