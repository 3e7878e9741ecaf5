"""A generation that the provider keeps: its place is stored with what it covers, and a claim goes on from there."""

import asyncio
from typing import Any

import pytest

from shared.errors import StorageError
from shared.events import Reasoning, Token, ToolCall
from shared.jobs import JobKey, OnInterrupt, Upstream
from shared.storage.appends import Batch
from shared.storage.jobs import Claimed, Refused
from tests.storage import acts
from tests.storage.conftest import Stores
from tests.storage.upstreams import AT_5, AT_6, attached, claimer, copy, last_reset, put_back, stored, take
from tests.support.loops import GUARD_S, running, until
from worker.claim import Taken
from worker.writer import LogWriter


async def test_a_place_is_stored_with_the_events_that_it_covers_or_not_at_all(stores: Stores) -> None:
    job, claimed = await attached(stores, "a")
    assert await stored(stores, job) == AT_5

    for epoch, first, verdict in [(claimed.epoch, 9, "GAP"), (claimed.epoch + 1, 4, "STALE"), (1, 4, "FENCED")]:
        assert (await stores.jobs.append(job, epoch, first, [Token("b")], None, AT_6)).verdict == verdict
    assert await stored(stores, job) == AT_5

    assert (await stores.jobs.append(job, claimed.epoch, 4, [Token("b")], None, AT_6)).verdict == "OK"
    assert await stored(stores, job) == AT_6


async def test_a_repetition_notes_what_has_become_of_the_generation_since(stores: Stores) -> None:
    job, claimed = await attached(stores, "a", "b")
    # The answer was lost, and so was the generation before the repetition: at the same place, for nothing came behind.
    assert (await stores.jobs.append(job, claimed.epoch, 3, [Token("a")], None, "-")).verdict == "OK"
    assert await stored(stores, job) == AT_5, "what covers less than the log has is older than what is noted"
    assert (await stores.jobs.append(job, claimed.epoch, 4, [Token("b")], None, "-")).verdict == "OK"
    assert await stored(stores, job) is None


async def test_a_generation_can_be_noted_and_forgotten_without_an_event(stores: Stores) -> None:
    job, claimed = await attached(stores, "a")
    before = await acts.events(stores, job)
    for _ in "12":
        assert (await stores.jobs.append(job, claimed.epoch, 4, [], None, AT_6)).verdict == "OK"
    assert await stored(stores, job) == AT_6
    assert (await stores.jobs.append(job, claimed.epoch, 4, [], None, "-")).verdict == "OK"
    assert await stored(stores, job) is None
    assert await acts.events(stores, job) == before


async def test_who_lost_the_job_can_note_nothing(stores: Stores) -> None:
    job, claimed = await attached(stores, "a")
    await take(stores, job)
    assert (await stores.jobs.append(job, claimed.epoch, 4, [], None, "-")).verdict == "FENCED"
    assert await stored(stores, job) == AT_5


@pytest.mark.parametrize("on_interrupt", list(OnInterrupt))
async def test_a_successor_keeps_the_text_whatever_the_job_says_of_interruptions(
    stores: Stores, on_interrupt: OnInterrupt
) -> None:
    job, _ = await attached(stores, "ab", "🌊", asked=acts.request(on_interrupt))
    taken = await take(stores, job)
    assert (taken.text, taken.upstream) == ("ab🌊", AT_5)
    assert (await last_reset(stores, job)).keep == 3
    assert await acts.text(stores, job) == "ab🌊"


@pytest.mark.parametrize("content", [Reasoning("hm"), ToolCall(0, "c", "f", "{}")], ids=lambda event: event.type)
async def test_what_a_reset_drops_is_read_again_and_that_is_stored_with_the_reset(stores: Stores, content: Any) -> None:
    job, claimed = await attached(stores, "kept")
    begun = Upstream("resp_2", 3, base=4)
    await stores.jobs.append(job, claimed.epoch, 4, [content, Token("more")], None, begun)
    for _ in "12":  # the second finds no reasoning any more, and must not take the old place for read
        taken = await take(stores, job)
        assert (taken.text, taken.upstream) == ("kept", Upstream("resp_2", -1, base=4))
        assert (await last_reset(stores, job)).keep == 4


async def test_before_the_first_content_there_is_a_generation_and_no_text(stores: Stores) -> None:
    job = await acts.create(stores)
    claimed = await acts.claim(stores, job)
    await stores.jobs.append(job, claimed.epoch, 3, [], None, AT_5)
    taken = await take(stores, job)
    assert (taken.text, taken.upstream) == ("", AT_5)


async def test_a_lost_generation_leaves_the_job_to_its_own_rule(stores: Stores) -> None:
    job, claimed = await attached(stores, "ab", asked=acts.request(OnInterrupt.FAIL))
    await stores.jobs.append(job, claimed.epoch, 4, [], None, "-")
    await acts.lapse(stores, job)
    refused = await claimer(stores).take(job)
    assert isinstance(refused, Refused)
    assert refused.verdict == "INTERRUPTED"


@pytest.mark.parametrize("upstream", [True, False])
async def test_a_claim_whose_answer_was_lost_still_knows_the_text_that_it_kept(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, upstream: bool
) -> None:
    job, claimed = await attached(stores, "ab", asked=acts.request(OnInterrupt.CONTINUE))
    if not upstream:
        await stores.jobs.append(job, claimed.epoch, 4, [], None, "-")
    await acts.lapse(stores, job)
    one, claim = claimer(stores), stores.jobs.claim

    async def lost(*args: Any, **more: Any) -> Any:
        if isinstance(answer := await claim(*args, **more), Claimed):
            raise StorageError("storage_unavailable")
        return answer

    monkeypatch.setattr(stores.jobs, "claim", lost)
    with pytest.raises(StorageError):
        await one.take(job)
    monkeypatch.undo()
    taken = await one.take(job)
    assert isinstance(taken, Taken)
    assert (taken.text, taken.claimed.attempt) == ("ab", 2)


async def _never() -> None:
    raise AssertionError


async def _write(writer: LogWriter) -> None:
    await writer.run()


async def test_the_writer_stores_each_place_with_its_events(stores: Stores) -> None:
    job = await acts.create(stores)
    writer = LogWriter(stores.jobs, job, await acts.claim(stores, job), reclaim=_never, patience_s=GUARD_S)
    async with running(_write(writer)), asyncio.timeout(GUARD_S):
        writer.mark(Upstream("resp_1", 0))
        await writer.flush()
        assert await stored(stores, job) == Upstream("resp_1", 0)
        for number, text in enumerate("abc", start=1):
            writer.add(Token(text), 7)
            writer.mark(Upstream("resp_1", number))
        await writer.flush()
        assert await stored(stores, job) == Upstream("resp_1", 3)
        writer.mark(None)
        await writer.flush()
        assert await stored(stores, job) is None


async def test_content_that_comes_while_the_generation_is_noted_has_its_time_noted_too(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await acts.create(stores)
    writer = LogWriter(stores.jobs, job, await acts.claim(stores, job), reclaim=_never, patience_s=GUARD_S)
    next_batch = writer.next_batch

    def meanwhile() -> Batch | None:
        batch = next_batch()
        if batch is not None and not batch.events:
            writer.add(Token("a"), 7)
        return batch

    monkeypatch.setattr(writer, "next_batch", meanwhile)
    async with running(_write(writer)), asyncio.timeout(GUARD_S):
        writer.mark(Upstream("resp_1", 0))
        await until(lambda: _has_ttft(stores, job, 7))


async def _has_ttft(stores: Stores, job: JobKey, ttft_ms: int) -> bool:
    return (await stores.jobs.show(job)).ttft_ms == ttft_ms


async def test_a_store_that_lost_the_tail_gets_the_places_again(stores: Stores) -> None:
    job = await acts.create(stores)
    writer = LogWriter(stores.jobs, job, await acts.claim(stores, job), reclaim=_never, patience_s=GUARD_S)
    async with running(_write(writer)), asyncio.timeout(GUARD_S):
        writer.add(Token("a"), 7)
        writer.mark(Upstream("resp_1", 1))
        await writer.flush()
        before = await copy(stores, job)
        writer.add(Token("b"), 7)
        writer.mark(Upstream("resp_1", 2))
        await writer.flush()
        await put_back(stores, job, before)
        writer.add(Token("c"), 7)
        writer.mark(Upstream("resp_1", 3))
        await writer.flush()
    assert await acts.text(stores, job) == "abc"
    assert await stored(stores, job) == Upstream("resp_1", 3)
