"""A bare HTTP client for contract tests: it adds nothing to a request and explains nothing of an answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.support.sse_reader import Frame, SseReader

GUARD_S = 40.0
"""A guard, not a promise: a test that waits so long has failed."""

Json = dict[str, Any]
TERMINAL = ("done", "failed", "cancelled")


@dataclass
class Streamed:
    """An event stream as it came. `whole`: the body ended as HTTP wants it."""

    status: int
    headers: httpx2.Headers
    raw: bytearray = field(default_factory=bytearray)
    reader: SseReader = field(default_factory=SseReader)
    whole: bool = False

    @property
    def frames(self) -> list[Frame]:
        """The frames so far."""
        return self.reader.frames

    @property
    def ids(self) -> list[str | None]:
        """Their ids."""
        return [frame.id for frame in self.frames]

    @property
    def names(self) -> list[str]:
        """Their events."""
        return [frame.event for frame in self.frames]

    @property
    def last(self) -> Frame:
        """The last frame."""
        return self.frames[-1]

    @property
    def bodies(self) -> list[str]:
        """Their data, as it stood on the wire."""
        return [frame.data for frame in self.frames]

    def one(self, event: str) -> Json:
        """The body of the only frame of this event."""
        (frame,) = [frame for frame in self.frames if frame.event == event]
        return frame.body

    def all(self, event: str) -> list[Json]:
        """The bodies of all frames of this event."""
        return [frame.body for frame in self.frames if frame.event == event]


class Tail:
    """An event stream that is being read."""

    def __init__(self, response: httpx2.Response) -> None:
        self.streamed = Streamed(response.status_code, response.headers)
        self._chunks = response.aiter_raw()

    async def until(self, condition: Callable[[Streamed], bool]) -> Streamed:
        """Read on until the condition holds; AssertionError if the stream ends first."""
        async with asyncio.timeout(GUARD_S):
            while not condition(self.streamed):
                assert await self._more(), f"the stream ended too early: {bytes(self.streamed.raw)!r}"
        return self.streamed

    async def end(self) -> Streamed:
        """Read to the end."""
        async with asyncio.timeout(GUARD_S):
            while await self._more():
                pass
        return self.streamed

    async def _more(self) -> bool:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self.streamed.whole = True
            return False
        self.streamed.raw += chunk
        self.streamed.reader.feed(chunk)
        return True


class Wire:
    """One caller of one server. `key`: its API key, if it has one."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.auth = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            headers=self.auth,
            timeout=GUARD_S,
            verify=self.url.startswith("https:"),
            limits=httpx2.Limits(max_connections=200),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ask(self, method: str, path: str, body: object = None, **options: Any) -> httpx2.Response:
        """One request; `body` is sent as JSON. `options`: httpx2's own."""
        if body is not None:
            options["content"] = json.dumps(body).encode()
        if "content" in options:
            options["headers"] = {"Content-Type": "application/json", **options.get("headers", {})}
        async with asyncio.timeout(GUARD_S):
            return await self._http.request(method, path, **options)

    async def create(self, body: Json, *, key: str | None = None) -> httpx2.Response:
        """POST /jobs."""
        return await self.ask("POST", "/jobs", body, headers={} if key is None else {"Idempotency-Key": key})

    async def submit(self, text: str | None = None, params: Json | None = None, **fields: Any) -> str:
        """Make a scripted job; its id."""
        answer = await self.create(scripted(text, params, **fields))
        if answer.status_code == 400 and answer.json().get("field") == "params.fault":
            pytest.skip("this server takes no faults on request: TAILRACE_SCRIPTED_FAULTS")
        assert answer.status_code == 202, answer.text
        job: str = answer.json()["id"]
        return job

    async def show(self, job: str) -> Json:
        """The job."""
        answer = await self.ask("GET", f"/jobs/{job}")
        assert answer.status_code == 200, answer.text
        shown: Json = answer.json()
        return shown

    async def show_when(self, job: str, condition: Callable[[Json], bool]) -> Json:
        """The job, once the condition holds."""
        async with asyncio.timeout(GUARD_S):
            while not condition(view := await self.show(job)):
                pass
        return view

    async def ended(self, job: str) -> Json:
        """The job, once its terminal event is there."""
        await self.events(job)
        return await self.show(job)

    async def cancel(self, job: str) -> Json:
        """Cancel it; the job."""
        answer = await self.ask("POST", f"/jobs/{job}/cancel")
        assert answer.status_code == 200, answer.text
        view: Json = answer.json()
        return view

    @asynccontextmanager
    async def tail(
        self, job: str, cursor: str | None = None, *, header: str | None = None, **query: Any
    ) -> AsyncIterator[Tail]:
        """Read the job's events after a cursor (the query's) or a header's."""
        if cursor is not None:
            query["last_event_id"] = cursor
        headers = {} if header is None else {"Last-Event-ID": header}
        async with self.streaming("GET", f"/jobs/{job}/events", params=query, headers=headers) as tail:
            yield tail

    @asynccontextmanager
    async def streaming(self, method: str, path: str, body: object = None, **options: Any) -> AsyncIterator[Tail]:
        """Any request whose answer is read as it comes."""
        if body is not None:
            options["content"] = json.dumps(body).encode()
            options["headers"] = {"Content-Type": "application/json", **options.get("headers", {})}
        async with self._http.stream(method, path, **options) as response:
            yield Tail(response)

    async def events(self, job: str, cursor: str | None = None, *, header: str | None = None, **query: Any) -> Streamed:
        """The job's events after a cursor, to the end."""
        async with self.tail(job, cursor, header=header, **query) as tail:
            return await tail.end()

    async def log(self, job: str) -> Streamed:
        """Every event of the job, each in its own frame, to the terminal one."""
        streamed = await self.events(job, exact="true")
        assert streamed.status == 200
        return streamed

    async def raw(self, request: bytes) -> bytes:
        """The whole answer to bytes of the caller's own, on a connection of its own. They should ask to close it."""
        target = urlsplit(self.url)
        async with asyncio.timeout(GUARD_S):
            reader, writer = await asyncio.open_connection(target.hostname, target.port)
            try:
                writer.write(request)
                return await reader.read()
            finally:
                writer.close()
                await writer.wait_closed()


def scripted(text: str | None = None, params: Json | None = None, **fields: Any) -> Json:
    """The body of a scripted job."""
    said = {} if text is None else {"text": text}
    return {"provider": "scripted", "model": "demo", "prompt": "hi", "params": {**said, **(params or {})}, **fields}


SLOW: Json = {"first_token_ms": 600_000}
"""`params` of a job that says nothing until it is ended."""
PACED: Json = {"tokens": 2000, "tokens_per_s": 50}
"""`params` of a job that talks for longer than any test."""


def assert_problem(answer: httpx2.Response, status: int, code: str, field: str | None = None) -> Json:
    """An RFC 9457 problem with this code; its body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: Json = answer.json()
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert problem["type"] == f"urn:tailrace:error:{code}"
    assert problem["detail"], problem
    assert problem.get("field") == field, problem
    return problem
