"""What stays of a job in the worker that ran it: nothing, at once, without a full collection that stops all others."""

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing

import pytest

from shared.jobs import JobKey, JobRequest, Message, Status
from shared.settings import Settings
from tests.storage import acts
from tests.storage.conftest import Stores
from tests.storage.upstreams import claimer
from tests.support.loops import GUARD_S, until
from tests.support.provider_behaviour import Behaviour
from tests.support.provider_server import ProviderServer
from worker.claim import Taken
from worker.gate import Gate
from worker.generate import Generation, Stop, Tools
from worker.providers.openai import OpenAIProvider
from worker.pump import ProviderLookup, Pump
from worker.writer import LogWriter

Disturb = Callable[[Stores, JobKey, Generation], Awaitable[None]]
OF_A_JOB = (Generation, LogWriter, Pump)
LONG = Behaviour(tokens=2000, rate=100)


@pytest.fixture
def without_collections() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    yield
    if was_enabled:
        gc.enable()


async def _none(stores: Stores, job: JobKey, generation: Generation) -> None:
    """The job ends by itself."""


async def _cancel(stores: Stores, job: JobKey, generation: Generation) -> None:
    await until(lambda: _has_tokens(stores, job))
    assert await stores.jobs.cancel(job, "user")
    generation.stop(Stop.FENCED)


async def _drain(stores: Stores, job: JobKey, generation: Generation) -> None:
    await until(lambda: _has_tokens(stores, job))
    generation.stop(Stop.DRAIN)


async def _has_tokens(stores: Stores, job: JobKey) -> bool:
    return bool(await acts.text(stores, job))


async def _generate(stores: Stores, provider: OpenAIProvider, disturb: Disturb) -> Status:
    """A job from its claim to its end."""
    job = await acts.create(stores, asked=JobRequest("openai", "m", [Message("user", "x")]))
    settings = Settings(retry_base_s=0.01)
    gate = Gate(settings, asyncio.get_running_loop().time)
    providers = ProviderLookup({"openai": provider})
    tools = Tools(settings, stores.jobs, stores.queue, claimer(stores, "w1"), providers, gate, "w1")
    taken = await tools.claimer.take(job)
    assert isinstance(taken, Taken)
    generation = Generation(tools, job, taken)
    async with asyncio.TaskGroup() as group:
        group.create_task(generation.run())
        await disturb(stores, job, generation)
    shown = await stores.jobs.show(job)
    assert shown is not None
    return shown.status


def _alive() -> Counter[str]:
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, OF_A_JOB))


@pytest.mark.parametrize(
    ("script", "disturb", "status"),
    [
        pytest.param([Behaviour(tokens=20, rate=200)], _none, Status.DONE, id="done"),
        pytest.param(
            [Behaviour("drop", 10, tokens=20, rate=200), Behaviour(tokens=20)], _none, Status.DONE, id="second attempt"
        ),
        pytest.param([Behaviour("400")], _none, Status.FAILED, id="failed"),
        pytest.param([LONG], _cancel, Status.CANCELLED, id="cancelled"),
        pytest.param([LONG], _drain, Status.QUEUED, id="drained"),
    ],
)
@pytest.mark.usefixtures("without_collections")
async def test_nothing_of_a_job_that_has_ended_here_waits_for_the_garbage_collector(
    stores: Stores, server: ProviderServer, script: list[Behaviour], disturb: Disturb, status: Status
) -> None:
    gc.collect()  # now, for what a test before has raised is let go when this one begins
    before = _alive()
    server.script(*script)
    async with aclosing(OpenAIProvider(Settings())) as provider, asyncio.timeout(GUARD_S):
        assert await _generate(stores, provider, disturb) is status
        await until(lambda: _alive() == before)
