"""The client: submit a job, stream it, ask for it, cancel it. Every call may be repeated without a second job."""

import uuid
from collections.abc import Callable
from typing import Any, Self, TypeVar, Unpack
from urllib.parse import quote

import httpx2

from tailrace_client.errors import GoneError, UnreachableError
from tailrace_client.events import parse_cursor
from tailrace_client.jobs import Job, JobPage, NewJob, Status
from tailrace_client.line import Create
from tailrace_client.patience import OnReconnect, Patience
from tailrace_client.stream import Stream
from tailrace_client.transcript import Transcript
from tailrace_client.wire import Wire

_T = TypeVar("_T")


class AsyncTailrace:
    """One server. Use it as `async with AsyncTailrace("http://127.0.0.1:8080") as tailrace:`, or call `aclose`.

    `api_key` goes out as a bearer token. `transport` replaces the network (proxies, own TLS, tests). ValueError for a
    base URL that is not http(s). All calls raise ApiError (see its subclasses) for a refusal and UnreachableError
    where no answer came; 429, 5xx and broken connections are tried `patience.tries` times first, after the server's
    `Retry-After`. Source of the calls: PROTOCOL.md.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        patience: Patience | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._wire = Wire(base_url, api_key, patience or Patience(), transport)

    async def submit(self, **job: Unpack[NewJob]) -> Job:
        """Put a generation on the queue; the job, whose log holds `queued` already.

        ConflictError where the given `idempotency_key` was used with another body.
        """
        body, key = _split(job)
        response = await self._wire.call("POST", "/jobs", json=body, headers={"Idempotency-Key": key})
        return _read(response, Job.of)

    def stream(self, *, on_reconnect: OnReconnect | None = None, **job: Unpack[NewJob]) -> Stream:
        """Create a job and follow it, in one request. Nothing is sent before the first event is asked for.

        A connection that breaks is followed by others: `Stream` says how, and what iterating raises.
        """
        return Stream(self._wire, Create(*_split(job)), on_reconnect=on_reconnect)

    def events(
        self,
        job_id: str,
        after: str | None = None,
        *,
        exact: bool = False,
        transcript: Transcript | None = None,
        on_reconnect: OnReconnect | None = None,
    ) -> Stream:
        """Follow a job from the cursor `after`: an event id, None for the start, ``$`` for a snapshot and what comes.

        `exact`: every entry as it was appended, where the server would join some for a reader that is behind.
        `transcript`: what the reader has already, to go on with. ValueError for what is no cursor.
        """
        return Stream(
            self._wire,
            job_id,
            cursor=parse_cursor(after),
            exact=exact,
            transcript=transcript,
            on_reconnect=on_reconnect,
        )

    async def job(self, job_id: str) -> Job:
        """The job with its text so far. NotFoundError, GoneError."""
        response = await self._wire.call("GET", _path(job_id))
        return _read(response, Job.of)

    async def jobs(
        self, *, status: Status | None = None, limit: int | None = None, after: str | None = None
    ) -> JobPage:
        """The caller's own jobs, newest first. `after` is the `next` of the page before."""
        asked = {"status": status, "limit": limit, "after": after}
        params = {name: str(value) for name, value in asked.items() if value is not None}
        response = await self._wire.call("GET", "/jobs", params=params)
        return _read(response, lambda page: JobPage([Job.of(item) for item in page["data"]], page.get("next")))

    async def cancel(self, job_id: str) -> Job:
        """End the job; returns it after the terminal event is in the log, or as it is where it had ended already."""
        response = await self._wire.call("POST", _path(job_id, "/cancel"))
        return _read(response, Job.of)

    async def delete(self, job_id: str) -> None:
        """Cancel the job if needed and erase it. GoneError where there was nothing left to erase."""
        try:
            await self._wire.call("DELETE", _path(job_id))
        except GoneError as error:
            # A try whose answer was lost may have deleted it: then this is the news of our own success.
            if not error.repeated:
                raise

    async def health(self) -> dict[str, Any]:
        """What `/healthz` says; returning at all means that an API node is alive."""
        response = await self._wire.call("GET", "/healthz")
        return _read(response, dict)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._wire.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _split(job: NewJob) -> tuple[dict[str, Any], str]:
    """The body of the POST and its Idempotency-Key."""
    body = {name: value for name, value in job.items() if value is not None}
    key = body.pop("idempotency_key", None) or uuid.uuid4().hex
    return body, str(key)


def _path(job_id: str, rest: str = "") -> str:
    return f"/jobs/{quote(job_id, safe='')}{rest}"


def _read(response: httpx2.Response, read: Callable[[Any], _T]) -> _T:
    """Read an answer's JSON; UnreachableError for what is not Tailrace's (a login page on the way, for one)."""
    try:
        return read(response.json())
    except (ValueError, KeyError, TypeError) as error:
        raise UnreachableError(f"{response.request.url} answered something that is not Tailrace's") from error
