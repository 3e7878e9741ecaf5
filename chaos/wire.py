"""One event stream over a plain socket: what is read is what came, nothing is repaired on the way."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator

from tests.support.sse_reader import Frame, SseReader

_HEAD_S = 20.0


class BrokenError(Exception):
    """The connection was refused, or ended in a way that is no proper end."""


class EventSocket:
    """A GET whose answer is read frame by frame. `small`: with tiny buffers, so that a slow reader is felt far away."""

    def __init__(self, port: int, path: str, headers: dict[str, str], *, small: bool = False) -> None:
        self._port = port
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
        self._request = ("\r\n".join(lines) + "\r\n\r\n").encode()
        self._small = small
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None

    async def open(self) -> int:
        """Send the request; the status of the answer. BrokenError where none came."""
        sock = socket.socket()
        sock.setblocking(False)
        if self._small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            async with asyncio.timeout(_HEAD_S):
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
                limit = 1024 if self._small else 65536
                self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=limit)
                self._writer.write(self._request)
                head = await self._head(self._reader)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            sock.close()
            raise BrokenError(repr(error)) from error
        return int(head[0].split()[1])

    async def _head(self, reader: asyncio.StreamReader) -> list[bytes]:
        lines: list[bytes] = []
        while line := (await reader.readuntil(b"\n")).strip():
            lines.append(line)
        return lines

    async def frames(self, silence_s: float) -> AsyncGenerator[list[Frame], None]:
        """Frames as they come; returns at the body's proper end. BrokenError for any other, or for too long a silence
        (heartbeats are no silence)."""
        reader, sse = self._reader, SseReader()
        assert reader is not None
        try:
            while True:
                async with asyncio.timeout(silence_s):
                    size = int(await reader.readuntil(b"\n"), 16)
                    chunk = (await reader.readexactly(size + 2))[:-2]
                if size == 0:
                    return
                yield sse.feed(chunk)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            raise BrokenError(repr(error)) from error

    def reset(self) -> None:
        """End it with an RST, as a box on the way does."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                sock: socket.socket = self._writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
