"""What every HTTP client to a provider is told: no redirects, no cookies, no compression, and no body without a bound.

Where a call goes is settled before it is made, by the workers' environment. A redirect would carry the key, or the
prompt, to wherever the other side says; a cookie would tie one tenant's calls to another's; a compressed body may grow
a thousandfold in memory; an error's body is read whole by the SDKs, however long it is.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import aiohttp
import httpx2

from shared.errors import ProviderError
from shared.settings import Settings

_NO_LIMIT = 1_000_000
"""A number, for the SDKs' aiohttp transport takes None for aiohttp's own limit of 100 connections."""
_KEPT_ALIVE_S = 30.0
MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Beyond this a frame is taken for garbage; real ones stay below 100 KB."""
MAX_ERROR_BYTES = 64 * 1024
"""So much of an error's body is read, for the code in it; real ones stay below 2 KB."""
_REDIRECTED = "The provider redirected the call, which is not followed: check its base URL in the workers' environment."


def timeouts(settings: Settings) -> httpx2.Timeout:
    """Time-outs in seconds that only catch what the caller's own, shorter ones missed."""
    read_s = 2 * max(settings.first_token_timeout_s, settings.between_token_timeout_s)
    return httpx2.Timeout(read_s, connect=min(10.0, read_s))


def pool(settings: Settings, *, frames: bool = False) -> dict[str, Any]:
    """Options of an HTTP client for one vendor and process. `frames`: bound the answers' frames as well, where whoever
    reads them does not.

    The worker's slots bound its connections, so the client does not; those kept alive spare the next job a handshake.
    """
    return {
        "timeout": timeouts(settings),
        "limits": httpx2.Limits(
            max_connections=_NO_LIMIT, max_keepalive_connections=100, keepalive_expiry=_KEPT_ALIVE_S
        ),
        "follow_redirects": False,
        "verify": _certificates(),
        "headers": {"Accept-Encoding": "identity"},
        "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        "event_hooks": {"request": [_pause], "response": [_guard, _guard_frames] if frames else [_guard]},
    }


def without_cookies(client: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """`client`, one on aiohttp, whose sessions would keep cookies beside httpx's jar."""
    transports: list[Any] = [client._transport, *client._mounts.values()]  # noqa: SLF001 - there is no public way
    for transport in transports:
        if hasattr(transport, "get_client"):
            transport.client = _session
    return client


def _session() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=_NO_LIMIT, keepalive_timeout=_KEPT_ALIVE_S, ssl=_certificates())
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """One for all clients of the process: reading the certificates takes 100 ms."""
    return httpx2.create_ssl_context()


async def _pause(_: httpx2.Request) -> None:
    """Let others in the loop have their turn: to build a request takes an SDK half a millisecond and more."""
    await asyncio.sleep(0)


async def _guard(response: httpx2.Response) -> None:
    """Look at a response's head before anybody reads its body. What it raises closes the connection."""
    status = response.status_code
    if 300 <= status < 400:
        raise ProviderError("provider_not_configured", _REDIRECTED, detail=f"status={status}")
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if status >= 400:
        response.headers.pop("content-encoding", None)
        response.stream = _Bounded(response.stream)
    elif encoding not in ("", "identity"):
        raise ProviderError("provider_protocol", detail="compressed although it was not asked for")


async def _guard_frames(response: httpx2.Response) -> None:
    if response.status_code < 300:
        response.stream = _Framed(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    """The beginning of a body."""

    def __init__(self, body: Any) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_ERROR_BYTES
        async for chunk in self._body:
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                return

    async def aclose(self) -> None:
        await self._body.aclose()


class _Framed(httpx2.AsyncByteStream):
    """A body of frames, as long as none is longer than MAX_FRAME_BYTES."""

    def __init__(self, body: Any) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size, tail = 0, b""
        async for chunk in self._body:
            tail += chunk
            end = max(tail.rfind(b"\n\n"), tail.rfind(b"\n\r\n"))
            size = size + len(chunk) if end < 0 else len(tail) - end
            if size > MAX_FRAME_BYTES:
                raise ProviderError("provider_protocol", detail="a frame without an end")
            tail = tail[-2:]
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()
