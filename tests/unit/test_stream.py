"""An open stream: what it holds for as long as its reader waits."""

import asyncio
import gc
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any, cast

from api.attendance import Attendance
from api.departure import Leaving
from api.dialects import dialect
from api.node import Node
from api.reader import Run, Start
from api.stream import EventStream
from shared.jobs import JobKey, JobRecord, JobRequest, Message, Status
from shared.settings import Settings
from shared.storage.jobs import JobStore
from tests.support.loops import end, until

JOB = JobKey("default", "0" * 26)


class Silent:
    """A reader of a job that says nothing."""

    async def follow(self, *_: Any) -> AsyncGenerator[Run, None]:
        yield Run([])
        await asyncio.get_running_loop().create_future()


def _record() -> JobRecord:
    request = JobRequest(provider="scripted", model="demo", messages=[Message("user", "a long prompt")])
    return JobRecord(JOB, request, Status.RUNNING, 0, 60_000, unread_ms=1000)


async def test_a_waiting_reader_holds_neither_the_prompt_nor_the_headers_of_its_request() -> None:
    said: list[Any] = []
    attendance = Attendance(cast("JobStore", None))
    settings, leaving = Settings(), Leaving(0.0)
    node = SimpleNamespace(
        settings=settings, attendance=attendance, leaving=leaving, reader=lambda _, together: Silent()
    )
    scope: dict[str, Any] = {"type": "http", "headers": [(b"cookie", b"c" * 4000)]}

    async def send(message: Any) -> None:
        said.append(message["type"])

    async def receive() -> Any:
        await asyncio.get_running_loop().create_future()

    def served() -> Any:
        return EventStream(cast("Node", node), _record(), Start(), dialect("native"), {}, made_here=False)(
            scope, receive, send
        )

    task = asyncio.create_task(served())
    await until(lambda: len(said) == 2)
    gc.collect()
    assert not any(isinstance(held, JobRecord | EventStream) for held in gc.get_objects())
    assert not scope["headers"]
    assert attendance._readers == {JOB: 1}
    await end(task)
    assert not attendance._readers
    assert not leaving.streams
