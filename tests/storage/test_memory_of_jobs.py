"""What stays of a job in the worker that ran it: nothing, at once, without a full collection that stops all others."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from shared.jobs import JobRequest, Message
from shared.settings import Settings
from tests.storage import acts
from tests.storage.conftest import Stores
from tests.storage.upstreams import claimer
from tests.support.loops import GUARD_S, until
from tests.support.provider_behaviour import Behaviour
from tests.support.provider_server import ProviderServer
from worker.claim import Taken
from worker.gate import Gate
from worker.generate import Generation, Tools
from worker.providers.openai import OpenAIProvider
from worker.pump import ProviderLookup, Pump
from worker.writer import LogWriter


@pytest.fixture
def without_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def _generate(stores: Stores, provider: OpenAIProvider) -> None:
    """A job from its claim to its end."""
    job = await acts.create(stores, asked=JobRequest("openai", "m", [Message("user", "x")]))
    settings = Settings()
    gate = Gate(settings, asyncio.get_running_loop().time)
    providers = ProviderLookup({"openai": provider})
    tools = Tools(settings, stores.jobs, stores.queue, claimer(stores, "w1"), providers, gate, "w1")
    taken = await tools.claimer.take(job)
    assert isinstance(taken, Taken)
    await Generation(tools, job, taken).run()


def _left() -> list[str]:
    return [type(each).__name__ for each in gc.get_objects() if type(each) in (Generation, LogWriter, Pump)]


@pytest.mark.usefixtures("without_collections")
async def test_nothing_of_a_job_that_is_done_waits_for_the_garbage_collector(
    stores: Stores, server: ProviderServer
) -> None:
    server.script(Behaviour(tokens=20, rate=200))
    async with aclosing(OpenAIProvider(Settings())) as provider, asyncio.timeout(GUARD_S):
        await _generate(stores, provider)
        await until(lambda: not _left())
