"""The tokens that nchan hands out: made here at the pace that the model's name asks for, no provider being read.

`POST /pub` {"model": "fake/n=…/d=…/f=…/b=…", "id"?} answers {"id"}; the tokens go to nginx as pipelined POSTs, one
message a token, over a few connections (a stream keeps to one, so its order holds). One heap of deadlines for all
streams: a task for each would make this the bottleneck.
"""

import asyncio
import contextlib
import heapq
import json
import os
import re
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import cast
from uuid import uuid4

import uvloop

LIFE_S = 7200
LINKS = 4
WINDOW = 64
"""How many unanswered tokens a connection has where tokens are made as fast as nginx takes them."""
TICK_S = 0.001
_ANSWER = b"HTTP/1.1 "


@dataclass(slots=True)
class Stream:
    """One generation. Times in ns; `batch`: tokens made at one time."""

    head: bytes
    link: "Link"
    tokens: int
    gap_ns: int
    batch: int
    seq: int = 0

    @property
    def finished(self) -> bool:
        """Whether its last token is made."""
        return self.seq >= self.tokens

    def make(self) -> None:
        """The next tokens, each stamped as it is made."""
        for _ in range(min(self.batch, self.tokens - self.seq)):
            self.link.add(self._message(b'{"text": "@%d:%d;"}' % (self.seq, time.monotonic_ns())))
            self.seq += 1
        if self.finished:
            self.link.add(self._message(b"[DONE]"))

    def _message(self, data: bytes) -> bytes:
        return b"%s%d\r\n\r\n%s" % (self.head, len(data), data)


class Link(asyncio.Protocol):
    """One connection to nginx, many requests deep."""

    def __init__(self) -> None:
        self._unsent: list[bytes] = []
        self._unanswered = 0
        self._tail = b""
        self._floods: deque[Stream] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready to send."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Count the answers, also one whose first bytes came with the read before."""
        seen = self._tail + data
        self._tail = seen[1 - len(_ANSWER) :]
        self._unanswered -= seen.count(_ANSWER)
        if b"\nnchan: error" in seen or b"HTTP/1.1 5" in seen or b"HTTP/1.1 4" in seen:
            print(f"nginx refuses a token: {seen[:200]!r}", file=sys.stderr)
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """nginx has gone, and with it the sense of this process."""
        os.kill(os.getpid(), signal.SIGTERM)

    def add(self, request: bytes) -> None:
        """Send it with the next flush."""
        self._unsent.append(request)
        self._unanswered += 1

    def flush(self) -> None:
        """One write for all that is due."""
        if self._unsent:
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()

    def flood(self, stream: Stream) -> None:
        """Make a stream's tokens as fast as nginx answers."""
        self._floods.append(stream)
        self._go_on()

    def _go_on(self) -> None:
        while self._floods and self._unanswered < WINDOW:
            stream = self._floods.popleft()
            stream.make()
            if not stream.finished:
                self._floods.append(stream)
        self.flush()


@dataclass(slots=True)
class Pace:
    """Who is due when."""

    links: list[Link]
    _due: list[tuple[int, int, Stream]] = field(default_factory=list)
    _numbers: "count[int]" = field(default_factory=count)

    def begin(self, model: str, stream_id: str) -> None:
        """Start a stream."""
        asked = {name: int(value) for name, value in re.findall(r"([ndfb])=(\d+)", model)}
        number = next(self._numbers)
        head = b"POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: " % stream_id.encode()
        link = self.links[number % len(self.links)]
        stream = Stream(head, link, asked.get("n", 100), asked.get("d", 0) * 1000, max(1, asked.get("b", 1)))
        heapq.heappush(self._due, (time.monotonic_ns() + asked.get("f", 0) * 1000, number, stream))

    async def run(self) -> None:
        """For ever: make what is due, and sleep a tick."""
        while True:
            now = time.monotonic_ns()
            while self._due and self._due[0][0] <= now:
                due, number, stream = heapq.heappop(self._due)
                self._step(due, number, stream)
            for link in self.links:
                link.flush()
            await asyncio.sleep(TICK_S)

    def _step(self, due: int, number: int, stream: Stream) -> None:
        if stream.gap_ns == 0:
            stream.link.flood(stream)
            return
        stream.make()
        if not stream.finished:
            heapq.heappush(self._due, (due + stream.gap_ns, number, stream))


async def answer(pace: Pace, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The requests of one of nginx's connections."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            ask = json.loads(await reader.readexactly(int(length.group(1)) if length else 0))
            stream_id = str(ask.get("id") or uuid4().hex)
            pace.begin(ask["model"], stream_id)
            body = json.dumps({"id": stream_id}, separators=(",", ":")).encode()
            kind = b"Content-Type: application/json\r\n"
            writer.write(b"HTTP/1.1 202 Accepted\r\n%sContent-Length: %d\r\n\r\n%s" % (kind, len(body), body))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def connect(path: Path) -> Link:
    """A connection to nginx, which starts beside this process; the alarm bounds the wait."""
    while True:
        with contextlib.suppress(OSError):
            return (await asyncio.get_running_loop().create_unix_connection(Link, str(path)))[1]
        await asyncio.sleep(0.01)


async def main(folder: Path) -> None:
    """Connect to nginx, then listen."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, os._exit, 0)
    pace = Pace([await connect(folder / "tokens.sock") for _ in range(LINKS)])
    server = await asyncio.start_unix_server(lambda r, w: answer(pace, r, w), folder / "publisher.sock", backlog=4096)
    async with server:
        await pace.run()


if __name__ == "__main__":
    signal.alarm(LIFE_S)
    uvloop.run(main(Path(os.environ["FOLDER"])))
