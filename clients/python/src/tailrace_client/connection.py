"""One response that carries events: bytes to frames, every way to end as one error, and a way to cut it."""

from contextlib import suppress
from typing import Any

import httpx2

from tailrace_client.sse import Decoder, Frame
from tailrace_client.wire import ConnectionBrokenError, describe


class Connection:
    """The current connection of a stream. It owns the response and closes it with `aclose`."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()
        self._decoder = Decoder()
        self._cut = False

    @property
    def retry_s(self) -> float | None:
        """The server's `retry:` hint in seconds, None where it gave none."""
        return None if self._decoder.retry_ms is None else self._decoder.retry_ms / 1000

    async def frames(self) -> list[Frame]:
        """Wait for bytes; the frames that they complete, none where they were a heartbeat.

        Raises ConnectionBrokenError when the connection ends in whatever way: an end is never the job's end by
        itself, the terminal event is.
        """
        if self._cut:
            raise ConnectionBrokenError("the connection was cut")
        try:
            chunk = await anext(self._chunks, None)
        except httpx2.ReadTimeout as error:
            raise ConnectionBrokenError("not even a heartbeat came for too long") from error
        except (httpx2.RequestError, httpx2.StreamError) as error:
            raise ConnectionBrokenError(describe(error)) from error
        if chunk is None:
            raise ConnectionBrokenError("the connection ended before the job did")
        return self._decoder.feed(chunk)

    async def cut(self) -> None:
        """Close the socket under the response, as a change of network does; bytes that were on the way are lost."""
        self._cut = True
        network: Any = self._response.extensions.get("network_stream")
        if network is not None:
            await network.aclose()

    async def aclose(self) -> None:
        """Give the connection back. Can be repeated, and called while another task waits in `frames`."""
        self._cut = True
        # A generator that is running cannot be closed; closing the response ends the wait, and with it the generator.
        with suppress(RuntimeError):
            await self._chunks.aclose()
        await self._response.aclose()
