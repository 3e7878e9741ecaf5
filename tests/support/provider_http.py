"""HTTP/1.1 for the local provider server: down at the bytes, so that every kind of break can be made."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast


@dataclass(eq=False)
class Request:
    """One request as it came in. `left` is set when the client closed the connection before the response ended."""

    path: str
    headers: dict[str, str]
    body: Any
    method: str = "POST"
    query: str = ""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    answered: bool = False
    at_s: float = field(default_factory=time.monotonic)
    """When it came, by the monotonic clock."""

    @property
    def summary(self) -> dict[str, Any]:
        """What `GET /requests` shows."""
        model = self.body.get("model") if isinstance(self.body, dict) else None
        return {"path": self.path, "model": model, "left": self.left.is_set(), "answered": self.answered}


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive: one request at a time, chunked responses."""

    def __init__(self, others: "set[Connection]", answer: "Callable[[Connection, Request], Awaitable[None]]") -> None:
        self._others = others
        self._answer = answer
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Future[None] | None = None
        self.request: Request | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods alone
        self._others.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.request is not None and not self.request.answered:
            self.request.left.set()
        self._others.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        body = json.loads(rest[:length]) if length else None
        method, target, _ = first.split(" ")
        path, _, query = target.partition("?")
        self.request = Request(path, headers, body, method, query)
        self._task = asyncio.ensure_future(self._answer(self, self.request))

    def head(self, status: int, *headers: tuple[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in headers)]
        self.write("\r\n".join([*lines, "", ""]).encode())

    def whole(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.head(status, ("content-length", str(len(body))), *headers)
        self.write(body)
        self.end()

    def chunk(self, data: bytes) -> None:
        self.write(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        if self.request is not None:
            self.request.answered = True

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    async def flush(self) -> None:
        """Until the kernel has taken everything: an abort would throw away what it has not."""
        assert self._transport is not None
        while self._transport.get_write_buffer_size() and not self._transport.is_closing():
            await asyncio.sleep(0)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        self.abort()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
