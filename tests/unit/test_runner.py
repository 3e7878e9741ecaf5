"""What a worker does when a job stops: what it used is told before the job leaves the index of open jobs."""

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import pytest

from shared.errors import StorageError
from shared.jobs import JobKey, new_job_id
from worker.runner import Runner

JOB = JobKey("acme", new_job_id())


class Store:
    """The control store as a worker uses it: what it has heard, in order."""

    def __init__(self, *fails: bool) -> None:
        self.fails = list(fails)
        self.heard: list[str] = []

    async def tell(self, used: Mapping[JobKey, int]) -> None:
        """Slow, and away as often as it was said."""
        await asyncio.sleep(0.02)
        if self.fails and self.fails.pop(0):
            raise StorageError("storage_unavailable")
        self.heard.append(f"told {used[JOB]}")

    async def close(self, *jobs: JobKey) -> None:
        """At once."""
        assert jobs == (JOB,)
        self.heard.append("closed")


@pytest.mark.parametrize(("fails", "heard"), [
    ((False,), ["told 7", "closed"]),
    ((True, False), ["told 7", "closed"]),
    ((True, True), []),
])  # fmt: skip
async def test_a_job_leaves_the_index_once_what_it_used_was_heard_and_not_before(
    fails: Sequence[bool], heard: list[str]
) -> None:
    store = Store(*fails)
    tools = SimpleNamespace(store=None, worker="w", queue=SimpleNamespace(withdraw=None))
    async with asyncio.TaskGroup() as group:
        runner = Runner(tools, store, SimpleNamespace(), group, store)  # type: ignore[arg-type]
        runner._spent[JOB] = 7
        runner._to_spend.add(JOB)
        runner._to_close.add(JOB)
    assert store.heard == heard
