"""A browser's EventSource in little: it comes back with its cursor by itself, and counts what it misses."""

import asyncio
import random
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.support.sse_reader import Frame, SseReader

TERMINAL = frozenset({"done", "failed", "cancelled"})
_BROKEN = (OSError, asyncio.IncompleteReadError, ValueError)


class RefusedError(Exception):
    """An answer that EventSource takes for the end for ever."""


class _CutError(Exception):
    """The reader has had enough of this connection."""


@dataclass
class EventSource:
    """One reader of one job. `retry_s` None: as long as the server says; else so long, whatever it says.

    `cuts`: where it gives, a number of bytes after which this connection is dropped.
    """

    url: str
    job: str
    key: str = ""
    exact: bool = True
    retry_s: float | None = None
    cuts: "Cuts | None" = None
    frames: list[Frame] = field(default_factory=list)
    broken_at: list[float] = field(default_factory=list)
    """When each connection broke, by the loop's clock."""
    back_at: list[float] = field(default_factory=list)
    """When each further connection had its answer."""
    heard_at: list[float] = field(default_factory=list)
    """When each frame came."""
    spoke_at: list[float] = field(default_factory=list)
    """When any bytes came."""
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    holes: int = 0
    doubled: int = 0
    closed_without_answer: int = 0
    _hint_s: float = 3.0

    @property
    def ended(self) -> bool:
        """Whether the terminal event was seen."""
        return bool(self.frames) and self.frames[-1].event in TERMINAL

    @property
    def cursor(self) -> str:
        """The last id."""
        return (self.frames[-1].id or "") if self.frames else ""

    @property
    def shown(self) -> list[tuple[str | None, str, str]]:
        """What was received, to be held against the log's."""
        return [(frame.id, frame.event, frame.data) for frame in self.frames]

    def token_times(self) -> list[float]:
        """When each token came."""
        return [at for frame, at in zip(self.frames, self.heard_at, strict=True) if frame.event == "token"]

    @property
    def absences_s(self) -> list[float]:
        """How long each break lasted."""
        return [back - broken for broken, back in zip(self.broken_at, self.back_at, strict=False)]

    async def read(self) -> None:
        """Read to the terminal event. RefusedError for any answer but 200 and 204."""
        now = asyncio.get_running_loop().time
        away = False
        while True:
            try:
                async for chunk in self._connection(away=away):
                    away = False
                    self._take(chunk, now())
            except (*_BROKEN, _CutError):
                pass
            if self.ended:
                return
            if not away:
                self.broken_at.append(now())
                away = True
            await asyncio.sleep(self._hint_s if self.retry_s is None else self.retry_s)

    async def _connection(self, *, away: bool) -> AsyncIterator[bytes]:
        """The body of one answer, piece by piece; nothing where it broke before the head."""
        target = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(target.hostname, target.port)
        try:
            writer.write(self._request(target.netloc).encode())
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (*_BROKEN,):
                self.closed_without_answer += 1
                raise
            status = head.split(b" ", 2)[1]
            if status not in (b"200", b"204"):
                raise RefusedError(head.decode("latin-1"))
            if away:
                self.back_at.append(asyncio.get_running_loop().time())
            self._parser = SseReader()
            left = self.cuts.draw() if self.cuts else None
            self.opened.set()
            if status != b"200":
                return
            async for chunk in body(head, reader):
                yield chunk if left is None else chunk[:left]
                if left is not None and (left := left - len(chunk)) <= 0:
                    raise _CutError
        finally:
            writer.transport.abort()

    def _request(self, host: str) -> str:
        lines = [
            f"GET /jobs/{self.job}/events{'?exact=true' if self.exact else ''} HTTP/1.1",
            f"Host: {host}",
            "Accept: text/event-stream",
            "Accept-Encoding: gzip",
            *([f"Authorization: Bearer {self.key}"] if self.key else []),
            *([f"Last-Event-ID: {self.cursor}"] if self.cursor else []),
        ]
        return "\r\n".join([*lines, "", ""])

    def _take(self, chunk: bytes, now_s: float) -> None:
        self.spoke_at.append(now_s)
        for frame in self._parser.feed(chunk):
            if frame.id is not None and self.frames and not frame.body.get("snapshot"):
                ahead = frame.seq - frame.n - self.frames[-1].seq
                self.holes += ahead > 0
                self.doubled += ahead < 0
            self.frames.append(frame)
            self.heard_at.append(now_s)
        if self._parser.retries:
            self._hint_s = self._parser.retries[-1] / 1000


async def body(head: bytes, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The pieces of a chunked body, unpacked where the head says that a proxy has packed it."""
    unpack = zlib.decompressobj(31) if b"content-encoding: gzip" in head.lower() else None
    while size := int(await reader.readline(), 16):
        chunk = await reader.readexactly(size)
        await reader.readexactly(2)
        yield chunk if unpack is None else unpack.decompress(chunk)


@dataclass
class Cuts:
    """After how many bytes of a body its connection is dropped: drawn from a seed, until `left` are used up."""

    chance: random.Random
    most: int
    left: int

    def draw(self) -> int | None:
        """For the next connection; None: it is left alone."""
        if self.left <= 0:
            return None
        self.left -= 1
        return self.chance.randint(1, self.most)
