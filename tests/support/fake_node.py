"""An API node that says exactly what a test tells it to: raw asyncio, the contract's shapes, breaks on purpose."""

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit


class End(Enum):
    """How an answer ends."""

    CLEAN = auto()
    """As HTTP wants it. To most clients that looks like success."""
    BROKEN = auto()
    """The connection closes before the body does."""
    ABORTED = auto()
    """The same with a TCP reset, which may also take bytes that were sent before."""
    OPEN = auto()
    """Nothing more comes; the connection stays until the client leaves."""


class Asked(NamedTuple):
    """One request as it arrived. Header names are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def cursor(self) -> str:
        """The cursor it asks for; the header wins."""
        return self.headers.get("last-event-id") or self.query.get("last_event_id", "")


@dataclass(frozen=True)
class Reply:
    """One answer. `status` 0: the connection closes without a head. Every part is written by itself."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    parts: tuple[bytes, ...] = ()
    end: End = End.CLEAN


Script = Reply | Callable[[Asked], Reply]


class FakeNode:
    """`async with FakeNode() as node`, then `node.on(…)`. Answers are used one after the other; the last one stays."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.next_asked = threading.Event()
        """Set by every request: for a test outside the node's loop that waits for one."""
        self.url = ""
        self._scripts: dict[str, list[Script]] = {}
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    def on(self, call: str, *scripts: Script) -> None:
        """Script the answers to a call, such as `GET /jobs/j1/events`."""
        self._scripts[call] = list(scripts)

    def times(self, call: str) -> int:
        """How often a call was made."""
        return sum(f"{asked.method} {asked.path}" == call for asked in self.asked)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            # A cancelled handler ends quietly: the test is over.
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                asked = await _read_request(reader)
                self.asked.append(asked)
                self.next_asked.set()
                await _write_reply(reader, writer, self._next_reply(asked))
        finally:
            self._serving.discard(task)
            writer.close()

    def _next_reply(self, asked: Asked) -> Reply:
        scripts = self._scripts.get(f"{asked.method} {asked.path}")
        if not scripts:
            return problem(404, "no_such_route")
        script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
        return script if isinstance(script, Reply) else script(asked)


async def _read_request(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    url = urlsplit(target)
    return Asked(method, url.path, dict(parse_qsl(url.query, keep_blank_values=True)), headers, body)


async def _write_reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: Reply) -> None:
    if reply.status == 0:
        return
    head = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}", "Connection: close"]
    bare = reply.status == HTTPStatus.NO_CONTENT
    head += [] if bare else ["Transfer-Encoding: chunked"]
    head += [f"{name}: {value}" for name, value in reply.headers.items()]
    writer.write("\r\n".join([*head, "", ""]).encode("latin-1"))
    for part in filter(None, reply.parts):
        writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        await writer.drain()
    match reply.end:
        case End.CLEAN if not bare:
            writer.write(b"0\r\n\r\n")
        case End.ABORTED:
            linger_for_no_time = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_no_time)
            writer.transport.abort()
        case End.OPEN:
            await reader.read()
        case _:
            pass


# -- what a node says


def frame(kind: str, event_id: str | None, /, **data: Any) -> bytes:
    """One event as it stands on the wire."""
    lines = [f"id: {event_id}"] if event_id else []
    return "\n".join([*lines, f"event: {kind}", f"data: {json.dumps(data, ensure_ascii=False)}", "", ""]).encode()


def an_answer(*texts: str, job_id: str = "j1") -> list[bytes]:
    """A whole log: `0-1` queued, `7-2` start, one token for each text, done."""
    log = [
        frame("queued", "0-1", job_id=job_id, provider="scripted", model="m", created_at="2026-01-01T00:00:00.000Z"),
        frame("start", "7-2", attempt=1, provider="scripted", model="m", queue_ms=1),
    ]
    log += [frame("token", f"7-{seq}", text=text) for seq, text in enumerate(texts, 3)]
    done = {"finish_reason": "stop", "usage": {}, "tokens": len(texts), "attempt": 1, "timings": {}}
    return [*log, frame("done", f"7-{len(log) + 1}", **done)]


def events(*parts: bytes, end: End = End.CLEAN, job_id: str | None = None) -> Reply:
    """An SSE answer; with `job_id` the answer to a POST, which names the job in `Location`."""
    headers = {"Content-Type": "text/event-stream; charset=utf-8"}
    if job_id:
        headers["Location"] = f"/jobs/{job_id}"
    return Reply(200, headers, parts, end)


def answer(body: Any, status: int = 200, **headers: str) -> Reply:
    """A JSON answer; underscores in header names stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"Content-Type": "application/json", **named}, (json.dumps(body).encode(),))


def problem(status: int, code: str, detail: str = "no", field: str | None = None, **headers: str) -> Reply:
    """A refusal after RFC 9457."""
    body = {"type": f"urn:{code}", "title": code, "status": status, "detail": detail, "code": code, "field": field}
    reply = answer(body, status, **headers)
    return Reply(status, {**reply.headers, "Content-Type": "application/problem+json"}, reply.parts)


NO_CONTENT = Reply(204)
HANG_UP = Reply(0)


def a_job(job_id: str = "j1", status: str = "done", **fields: Any) -> dict[str, Any]:
    """A job as `GET /jobs/{id}` shows it."""
    return {
        "id": job_id,
        "provider": "scripted",
        "model": "m",
        "status": status,
        "text": "",
        "finish_reason": None,
        "usage": {},
        "attempt": 1,
        "last_event_id": "0-1",
        "error": None,
        "timings": {},
        "metadata": {},
        "created_at": "2026-01-01T00:00:00.000Z",
        "finished_at": None,
        "expires_at": None,
        "events_url": f"/jobs/{job_id}/events",
        **fields,
    }


@contextmanager
def in_a_thread(node: FakeNode) -> Iterator[FakeNode]:
    """Run the node beside a test that is not asynchronous (a command line)."""
    ready, loop_and_stop = threading.Event(), []

    async def serve() -> None:
        stop = asyncio.Event()
        loop_and_stop.append((asyncio.get_running_loop(), stop))
        async with node:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield node
    finally:
        loop, stop = loop_and_stop[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
