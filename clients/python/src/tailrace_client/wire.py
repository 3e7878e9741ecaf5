"""HTTP as this library needs it: headers, time-outs, retries that cannot do harm, and refusals as typed errors."""

from collections.abc import Mapping
from json import loads as decode_json
from typing import Any

import httpx2

from tailrace_client.errors import ApiError, UnreachableError, api_error
from tailrace_client.patience import Patience

_MAX_PROBLEM_BYTES = 64 * 1024


class ConnectionBrokenError(Exception):
    """Internal: this connection brought no (more) answer; the next one may."""


class Wire:
    """One connection pool to one server. Whoever makes it closes it with `aclose`."""

    def __init__(
        self, base_url: str, api_key: str | None, patience: Patience, transport: httpx2.AsyncBaseTransport | None
    ) -> None:
        url = httpx2.URL(base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"{base_url!r} is not an http:// or https:// URL")
        self.patience = patience
        headers = {"User-Agent": "tailrace-client"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._http = httpx2.AsyncClient(
            base_url=url,
            headers=headers,
            transport=transport,
            # Streams hold their connections for long; a limit would make a cancel wait for one of them to end.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
            # Reading the CA bundle takes a tenth of a second; without TLS there is nothing to verify.
            verify=url.scheme == "https",
        )

    async def aclose(self) -> None:
        """Close the pool; streams that are still open break."""
        await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Send a request that may be repeated, and read the answer.

        Raises ApiError for a refusal (`repeated` where it was not the first try that met it), UnreachableError where
        no try brought an answer.
        """
        patience = self.patience
        tries = 0
        while True:
            hint = 0.0
            try:
                return await self._once(method, path, json, params, headers)
            except ApiError as error:
                error.repeated = tries > 0
                hint = error.retry_after or 0.0
                if not error.passing or tries + 1 >= patience.tries or hint > patience.give_up_s:
                    raise
            except httpx2.RequestError as error:
                if tries + 1 >= patience.tries:
                    raise UnreachableError(f"{self._http.base_url} cannot be reached: {describe(error)}") from error
            await patience.sleep(patience.backoff(tries, hint))
            tries += 1

    async def _once(
        self, method: str, path: str, json: Any, params: Mapping[str, str] | None, headers: Mapping[str, str] | None
    ) -> httpx2.Response:
        timeout = httpx2.Timeout(self.patience.request_timeout_s, connect=self.patience.connect_timeout_s)
        response = await self._http.request(method, path, json=json, params=params, headers=headers, timeout=timeout)
        if not response.is_success:
            raise api_error(response.status_code, response.headers, _json_or_none(response.content))
        return response

    async def open(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Send a request once and return when the answer's head is there; the caller closes it.

        Raises ApiError for a refusal, ConnectionBrokenError where no head came.
        """
        timeout = httpx2.Timeout(self.patience.read_timeout_s, connect=self.patience.connect_timeout_s)
        # Compression on the way would hold events back until a block is full.
        asked = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        request = self._http.build_request(
            method, path, json=json, params=params, headers={**asked, **(headers or {})}, timeout=timeout
        )
        try:
            response = await self._http.send(request, stream=True)
            if response.is_success:
                return response
            problem = await _read_problem(response)
        except httpx2.RequestError as error:
            raise ConnectionBrokenError(f"{self._http.base_url} cannot be reached: {describe(error)}") from error
        raise api_error(response.status_code, response.headers, _json_or_none(problem))


def describe(error: Exception) -> str:
    """An HTTP library's error in a few words: many come without a message."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def _read_problem(response: httpx2.Response) -> bytes:
    """The body of a refusal, as far as it is of a sane size."""
    body = b""
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _MAX_PROBLEM_BYTES:
                break
    finally:
        await response.aclose()
    return body


def _json_or_none(body: bytes) -> Any:
    try:
        return decode_json(body)
    except ValueError:
        return None
