"""What vendors' streams have in common: server-sent events out of a raw response.

The SDKs connect, authenticate and sort status errors; their streams are not used, only their raw responses. An SDK
builds a pydantic object for every chunk: measured with openai 3.54 (2 cores), 350 µs of CPU a token, against 40 µs for
the frames of the same response where tokens come in bursts. Of the SDKs' two transports the one on aiohttp is used: 12
µs a token in the same bursts, and half of httpx's where tokens come one by one (benchmarks/README.md).
"""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx2
import msgspec

from shared.errors import ProviderError, TailraceError
from worker.providers import failures
from worker.providers.base import Piece
from worker.providers.outward import MAX_FRAME_BYTES
from worker.providers.pushed import Pushing, body_of

T = TypeVar("T")


def without_user(base_url: str) -> tuple[str, dict[str, str]]:
    """A base URL without the user and password that it may name, and the headers that say them instead: the transport
    refuses a request that names both them and the SDK's key."""
    parts = urlsplit(base_url)
    if parts.username is None:
        return base_url, {}
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    clean = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    return urlunsplit(clean), {"Authorization": f"Basic {b64encode(user).decode()}"}


def decode(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """One frame's JSON. msgspec.DecodeError or json.JSONDecodeError for garbage."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # Half a surrogate pair is no text to msgspec; the standard library lets it through, to be joined later.
        return msgspec.convert(json.loads(data), decoder.type)


class Decoder:
    """Cuts bytes into frames and gives the `data:` of each; both vendors repeat the event's name in it.

    Lines end in LF or CRLF; comments, `event:`, `id:` and `retry:` are skipped; so is a frame without an end.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._more: list[bytes] = []
        """Chunks of a line that is longer than one: joined at its end, for to join at each costs the square."""
        self._data: list[bytes] = []
        self._size = 0
        """Bytes of the frame that is open, as far as they are kept."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The frames that this chunk completes. ProviderError(provider_protocol) for a frame without an end."""
        if b"\n" not in chunk:
            self._keep(len(chunk))
            self._more.append(chunk)
            return []
        if self._more:
            self._rest, self._more = b"".join((self._rest, *self._more)), []
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        frames = []
        for raw in lines:
            line = raw.rstrip(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                frames.append(b"\n".join(self._data))
                self._data = []
        self._size = 0
        self._keep(len(self._rest) + (sum(map(len, self._data)) if self._data else 0))
        return frames

    def _keep(self, size: int) -> None:
        self._size += size
        if self._size > MAX_FRAME_BYTES:
            raise ProviderError("provider_protocol", detail="a frame without an end")


class Response(Protocol):
    """What both SDKs' raw responses have."""

    headers: httpx2.Headers
    request_id: str | None

    def iter_bytes(self) -> AsyncIterator[bytes]:
        """The body, decompressed."""


class Reader(Protocol):
    """Makes pieces out of frames: one per answer."""

    @property
    def patience_s(self) -> float | None:
        """None while the answer is open; once it is whole, how long to wait for what may still come."""

    def feed(self, data: bytes) -> Iterable[Piece]:
        """The pieces in one frame. Any exception if it cannot be read, ProviderError if it reports an error."""

    def finish(self) -> Iterator[Piece]:
        """The pieces at the end of the body. ProviderError(provider_interrupted) if the end mark is missing."""


async def answer(
    request: Callable[[], AbstractAsyncContextManager[Response]], read: Callable[[str | None], Reader]
) -> AsyncGenerator[Piece, None]:
    """The pieces of one answer: opens the response, reads it to its end, closes it however this ends.

    `read` makes the reader, given the vendor's request id. Raises ProviderError, whatever the SDK raised.
    """
    async with _opened(request, read) as (response, reader):
        async with aclosing(_frames(response.iter_bytes(), reader)) as frames:
            async for data in frames:
                for piece in reader.feed(data):
                    yield piece
        for piece in reader.finish():
            yield piece


async def pour(
    request: Callable[[], AbstractAsyncContextManager[Response]],
    read: Callable[[str | None], Reader],
    take: Callable[[Piece], object],
) -> None:
    """As `answer`, but each piece is given to `take`, without a task's turn for it where the body can be had as it is.

    What `take` raises ends the answer; it has to be a TailraceError.
    """
    async with _opened(request, read) as (response, reader):

        def feed(data: bytes) -> None:
            for piece in reader.feed(data):
                take(piece)

        body = body_of(response)
        if body is not None:
            await Pushing(body, Decoder().feed, feed, lambda: reader.patience_s).run()
        else:
            async with aclosing(_frames(response.iter_bytes(), reader)) as frames:
                async for data in frames:
                    feed(data)
        for piece in reader.finish():
            take(piece)


@asynccontextmanager
async def _opened(
    request: Callable[[], AbstractAsyncContextManager[Response]], read: Callable[[str | None], Reader]
) -> AsyncIterator[tuple[Response, Reader]]:
    """The response and its reader; what the SDK raises until it is closed, as ProviderError."""
    started = False
    try:
        async with request() as response:
            started = True
            _expect_events(response.headers)
            yield response, read(response.request_id)
    except TailraceError:
        raise
    except Exception as error:
        # `from None`: the vendor's own words may hold the prompt or a key.
        raise _translated(error, started=started) from None


def _translated(error: Exception, *, started: bool) -> ProviderError:
    failure = failures.classify(error, started=started)
    # A body in its frames keeps what broke it: a circle, and in it the job until a full collection.
    error.__traceback__ = None
    return failure


async def _frames(chunks: AsyncIterator[bytes], reader: Reader) -> AsyncGenerator[bytes, None]:
    """The data of each frame until the body ends.

    Once the answer is whole, neither silence nor a broken connection can spoil it: reading on only serves to get the
    usage, and to hand the connection back to the pool.
    """
    decoder = Decoder()
    while True:
        patience_s = reader.patience_s
        try:
            async with nullcontext() if patience_s is None else asyncio.timeout(patience_s):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except Exception:
            if patience_s is None:
                raise
            return
        for data in decoder.feed(chunk):
            yield data


def _expect_events(headers: Mapping[str, str]) -> None:
    """ProviderError(provider_protocol) if a 200 is no event stream but, say, a gateway's page."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in ("text/event-stream", ""):
        raise ProviderError("provider_protocol", detail="not an event stream")
