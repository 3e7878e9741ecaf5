"""Generations that the provider keeps, from claim to end: read on by whoever has the job, and ended with it."""

import asyncio
from contextlib import aclosing

import pytest

from shared.jobs import Act, JobKey, JobRequest, Message, OnInterrupt, Upstream
from shared.settings import Settings
from shared.storage.appends import Batch
from shared.transcript import fold
from tests.storage import acts
from tests.storage.conftest import Stores
from tests.storage.upstreams import claimer, copy, last_reset, put_back, take
from tests.support.loops import GUARD_S, running, until
from tests.support.provider_behaviour import Behaviour, answer
from tests.support.provider_server import ProviderServer
from worker.claim import Taken
from worker.gate import Gate
from worker.generate import Generation, Stop, Tools
from worker.providers.openai import OpenAIProvider
from worker.pump import ProviderLookup
from worker.writer import LogWriter


def _tools(stores: Stores, provider: OpenAIProvider, worker: str) -> Tools:
    settings = Settings(retry_base_s=0.01)
    gate = Gate(settings, asyncio.get_running_loop().time)
    providers = ProviderLookup({"openai": provider})
    return Tools(settings, stores.jobs, stores.queue, claimer(stores, worker), providers, gate, worker)


@pytest.mark.parametrize("background", [True, False])
async def test_a_failover_behind_a_successors_claim_costs_no_word_and_no_second_generation_in_the_background(
    stores: Stores, server: ProviderServer, background: bool
) -> None:
    request = JobRequest(
        "openai",
        "m",
        [Message("user", "tokens:150 rate:100")],
        params={"background": background},
        on_interrupt=OnInterrupt.CONTINUE,
    )
    job = await acts.create(stores, asked=request)

    async def words(count: int) -> None:
        await until(lambda: _shows(stores, job, count))

    async with aclosing(OpenAIProvider(Settings())) as provider, asyncio.timeout(3 * GUARD_S):
        taken = await claimer(stores, "w1").take(job)
        assert isinstance(taken, Taken)
        first = Generation(_tools(stores, provider, "w1"), job, taken)
        async with running(first.run()):
            await words(5)
            before = await copy(stores, job)
            await words(20)
        await acts.lapse(stores, job)
        taken = await claimer(stores, "w2").take(job)
        assert isinstance(taken, Taken)
        second = Generation(_tools(stores, provider, "w2"), job, taken)
        async with running(second.run()):
            await words(40)
            await put_back(stores, job, (before[0], before[1], None))
            await until(lambda: _ended(stores, job))

    assert await acts.text(stores, job) == answer("m", [("user", "tokens:150 rate:100")], 150)
    assert len(server.background.kept) == (1 if background else 0)
    assert server.background.cancels == 0


async def _shows(stores: Stores, job: JobKey, count: int) -> bool:
    return fold(await acts.events(stores, job)).text.count(" ") >= count


async def _ended(stores: Stores, job: JobKey) -> bool:
    return (await stores.jobs.show(job)).ended


@pytest.mark.parametrize("why", ["cancelled", "moved", "drained", "finished elsewhere"])
async def test_a_generation_is_cancelled_with_its_job_and_not_when_the_job_moves(
    stores: Stores, server: ProviderServer, why: str
) -> None:
    request = JobRequest("openai", "m", [Message("user", "x")], params={"background": True})
    job = await acts.create(stores, asked=request)
    server.script(Behaviour(rate=20, tokens=400))
    async with aclosing(OpenAIProvider(Settings())) as provider, asyncio.timeout(3 * GUARD_S):
        taken = await claimer(stores, "w1").take(job)
        assert isinstance(taken, Taken)
        generation = Generation(_tools(stores, provider, "w1"), job, taken)
        task = asyncio.create_task(generation.run())
        await until(lambda: _shows(stores, job, 2))
        if why == "cancelled":
            await stores.jobs.cancel(job, "user")
        elif why != "drained":
            claimed = (await take(stores, job)).claimed
            if why == "finished elsewhere":
                await stores.jobs.finish(job, claimed.epoch, claimed.seq + 1, [acts.DONE], act=Act.DONE, usage={})
        generation.stop(Stop.DRAIN if why == "drained" else Stop.FENCED)
        await task
    assert server.background.cancels == (1 if why == "cancelled" else 0)


async def _run(stores: Stores, server: ProviderServer, on_interrupt: OnInterrupt) -> JobKey:
    """A job in the background from its claim to its end, in one worker."""
    request = JobRequest("openai", "m", [Message("user", "x")], params={"background": True}, on_interrupt=on_interrupt)
    job = await acts.create(stores, asked=request)
    async with aclosing(OpenAIProvider(Settings())) as provider, asyncio.timeout(3 * GUARD_S):
        taken = await claimer(stores, "w1").take(job)
        assert isinstance(taken, Taken)
        await Generation(_tools(stores, provider, "w1"), job, taken).run()
    return job


async def test_a_finished_job_cancels_nothing(stores: Stores, server: ProviderServer) -> None:
    job = await _run(stores, server, OnInterrupt.RESTART)
    assert (await stores.jobs.show(job)).status.value == Act.DONE.value
    assert server.background.cancels == 0


async def test_no_word_is_stored_without_its_place(
    stores: Stores, server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_batch, places = LogWriter.next_batch, []

    def watched(writer: LogWriter) -> Batch | None:
        batch = next_batch(writer)
        if batch is not None:
            places.append(batch.upstream)
        return batch

    monkeypatch.setattr(LogWriter, "next_batch", watched)
    server.script(Behaviour(rate=200))
    await _run(stores, server, OnInterrupt.RESTART)
    assert len(places) > 1
    assert [place for place in places if not isinstance(place, Upstream)] == []


async def test_an_answer_without_a_word_is_asked_for_anew_and_not_read_again(
    stores: Stores, server: ProviderServer
) -> None:
    server.script(Behaviour("empty"))
    job = await _run(stores, server, OnInterrupt.RESTART)
    record = await stores.jobs.show(job)
    assert (record.status.value, record.attempt) == ("done", 1)
    assert await acts.text(stores, job) == answer("m", [("user", "x")])
    assert (len(server.background.kept), server.background.reads) == (2, [])


async def test_connections_that_break_again_and_again_show_nowhere_while_the_answer_comes_on(
    stores: Stores, server: ProviderServer
) -> None:
    server.script(Behaviour("drop", 3))
    job = await _run(stores, server, OnInterrupt.FAIL)
    record = await stores.jobs.show(job)
    assert (record.status.value, record.attempt, record.terminal["tokens"]) == ("done", 1, 24)
    assert await acts.text(stores, job) == answer("m", [("user", "x")])
    assert len(server.background.kept) == 1


async def test_a_generation_that_brings_nothing_is_given_up_and_cancelled(
    stores: Stores, server: ProviderServer
) -> None:
    server.script(Behaviour("drop", 0, rate=0.1))
    job = await _run(stores, server, OnInterrupt.RESTART)
    record = await stores.jobs.show(job)
    assert (record.status.value, record.terminal["code"]) == ("failed", "provider_interrupted")
    assert [kept.status for kept in server.background.kept] == ["cancelled"]


@pytest.mark.parametrize(("on_interrupt", "keep"), [(OnInterrupt.RESTART, 0), (OnInterrupt.CONTINUE, 9)])
async def test_after_a_lost_generation_another_begins_as_the_job_wants_it(
    stores: Stores, server: ProviderServer, on_interrupt: OnInterrupt, keep: int
) -> None:
    server.script(Behaviour("forgotten", 9))
    job = await _run(stores, server, on_interrupt)
    record = await stores.jobs.show(job)
    assert (record.status.value, record.attempt) == ("done", 2)
    assert await acts.text(stores, job) == answer("m", [("user", "x")])
    assert (await last_reset(stores, job)).keep == sum(
        len(word) + 1 for word in answer("m", [("user", "x")]).split(" ")[:keep]
    )
    assert record.upstream is not None
    assert (len(server.background.kept), record.upstream.base) == (2, (await last_reset(stores, job)).keep)


async def test_a_generation_that_cannot_be_gone_on_with_ends_a_job_that_wants_no_other(
    stores: Stores, server: ProviderServer
) -> None:
    server.script(Behaviour("failed", 9))
    record = await stores.jobs.show(await _run(stores, server, OnInterrupt.FAIL))
    assert (record.status.value, record.terminal["code"]) == ("failed", "provider_unavailable")
    assert (len(server.background.kept), server.background.cancels) == (1, 0)
