"""Compact logs: nobody who reads one can tell that it was rewritten, and whoever dies at it has changed nothing."""

from collections.abc import Callable
from itertools import product

import fakeredis
import pytest

from shared.errors import StorageError
from shared.events import START, Done, Entry, EventId, Reasoning, Token, ToolCall
from shared.jobs import Act, JobKey
from shared.storage import compaction
from shared.storage.keys import compact_form, job_keys
from tests.storage.acts import LEASE_MS, assert_sound, claim, create, lapse, new_job
from tests.storage.conftest import Stores

Answer = tuple[bool, list[Entry], bool, bool]


async def rest() -> None:
    """Between two parts there is nothing else to do."""


async def ended(stores: Stores, tokens: int = 40) -> JobKey:
    """A job with an answer, `queued` and `start` before it."""
    job = await create(stores)
    epoch = (await claim(stores, job)).epoch
    texts: list[Token | Reasoning] = [Token("first ", 12), *(Token(f"{n} ") for n in range(tokens - 1))]
    for first in range(0, tokens, 5_000):
        assert (await stores.jobs.append(job, epoch, first + 3, [*texts[first : first + 5_000]])).verdict == "OK"
    await finish(stores, job, epoch, tokens + 3)
    return job


async def finish(stores: Stores, job: JobKey, epoch: int, seq: int) -> None:
    """The end of an answer."""
    done = Done("stop", {"output_tokens": seq}, seq, 1, {}, at_ms=99)
    assert (await stores.jobs.finish(job, epoch, seq, [done], act=Act.DONE, usage={})).verdict == "OK"


async def of_three_attempts(stores: Stores) -> JobKey:
    """A job that lost two workers, with text of every kind in each attempt."""
    job = await create(stores)
    pieces = [Reasoning("h"), Reasoning("m", 3), Token("a", 4), Token(""), Token("\U0001f642\n"), Token("c")]
    calls = [ToolCall(0, "i", "n", "{"), ToolCall(0, "", "", "}")]
    for attempt in range(3):
        claimed = await claim(stores, job, f"w{attempt}")
        events = [*pieces, *calls, Token("x"), Token("y")]
        assert (await stores.jobs.append(job, claimed.epoch, claimed.seq + 1, events)).verdict == "OK"
        if attempt < 2:
            await lapse(stores, job)
        else:
            await finish(stores, job, claimed.epoch, claimed.seq + 1 + len(events))
    return job


async def answers(stores: Stores, job: JobKey) -> dict[tuple[EventId, int], Answer]:
    """What every cursor that somebody may have gets, page after page; and every one that nobody can have."""
    log = await stores.log.read_all(job)
    epochs = {0, 1, 2**64 - 1, *(entry.id.epoch for entry in log)}
    cursors = [EventId(epoch, seq) for epoch, seq in product(sorted(epochs), range(len(log) + 3))]
    table: dict[tuple[EventId, int], Answer] = {}
    for cursor, count in product(cursors, (1, 7, 128)):
        entries: list[Entry] = []
        page = await stores.log.read_after(job, cursor, count)
        held, at_end, empty = page.held, page.at_end, page.empty_log
        entries += page.entries
        while page.held and page.full and page.entries:
            page = await stores.log.read_after(job, entries[-1].id, count)
            entries += page.entries
        table[cursor, count] = held, entries, at_end, empty
    return table


@pytest.mark.parametrize("make", [ended, of_three_attempts])
async def test_every_cursor_gets_the_same_answer_from_the_compact_log(
    stores: Stores, make: Callable[[Stores], object]
) -> None:
    job: JobKey = await make(stores)  # type: ignore[misc]
    log = await stores.log.read_all(job)
    before = await answers(stores, job)

    assert await stores.compaction.rewrite(job, rest) == "OK"

    assert await stores.redis.xlen(job_keys(job).log) < len(log)
    assert await stores.log.read_all(job) == log
    assert_sound(log)
    assert await answers(stores, job) == before
    assert await stores.log.last_ids([job]) == [log[-1].id]


async def ends_at(stores: Stores, job: JobKey) -> int:
    """When the log expires, ms since 1970."""
    return int(await stores.redis.pexpiretime(job_keys(job).log))  # type: ignore[misc]  # promises no awaitable


async def test_a_rewritten_log_lives_as_long_as_it_did_and_leaves_nothing_beside_it(stores: Stores) -> None:
    job = await ended(stores)
    before = await ends_at(stores, job)
    assert await stores.compaction.rewrite(job, rest) == "OK"
    assert await ends_at(stores, job) == before
    assert await stores.redis.exists(compact_form(job)) == 0


async def test_a_long_log_is_rewritten_in_bounded_parts(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await ended(stores, 20_000)
    log = await stores.log.read_all(job)
    parts: list[int] = []
    read = stores.log.read_raw

    async def counted(job: JobKey, start: str, count: int) -> object:
        raw = await read(job, start, count)
        parts.append(len(raw))
        return raw

    monkeypatch.setattr(stores.log, "read_raw", counted)
    assert await stores.compaction.rewrite(job, rest) == "OK"
    monkeypatch.undo()

    assert max(parts) == compaction.PART
    assert sum(parts) == len(log)
    assert await stores.log.read_all(job) == log


@pytest.mark.parametrize("length", [1, 2, 3])
async def test_a_log_that_ends_with_a_part_is_rewritten_whole(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(compaction, "PART", 4)
    job = await ended(stores, 4 * length - 3)
    log = await stores.log.read_all(job)
    assert await stores.compaction.rewrite(job, rest) == "OK"
    assert await stores.log.read_all(job) == log


async def test_a_compact_log_is_left_alone(stores: Stores) -> None:
    job = await ended(stores)
    assert await stores.compaction.rewrite(job, rest) == "OK"
    held = await stores.redis.xrange(job_keys(job).log)
    assert await stores.compaction.rewrite(job, rest) == "LEFT"
    assert await stores.redis.xrange(job_keys(job).log) == held


async def test_a_log_that_goes_on_is_not_touched(stores: Stores) -> None:
    job = await create(stores)
    epoch = (await claim(stores, job)).epoch
    await stores.jobs.append(job, epoch, 3, [Token("a"), Token("b")])
    assert await stores.compaction.rewrite(job, rest) == "OPEN"
    assert (await stores.jobs.append(job, epoch, 5, [Token("c")])).verdict == "OK"
    assert len(await stores.log.read_all(job)) == await stores.redis.xlen(job_keys(job).log) == 5


async def test_a_job_that_is_gone_stays_gone(stores: Stores) -> None:
    assert await stores.compaction.rewrite(new_job(), rest) == "GONE"
    job = await ended(stores)
    await stores.jobs.delete(job)
    held = await stores.redis.xrange(job_keys(job).log)
    assert await stores.compaction.rewrite(job, rest) == "GONE"
    assert await stores.redis.xrange(job_keys(job).log) == held


@pytest.mark.parametrize("how", ["deleted", "expired"])
async def test_a_job_that_goes_while_its_log_is_rewritten_does_not_come_back(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(compaction, "PART", 10)
    job = await ended(stores)

    async def meanwhile() -> None:
        if how == "deleted":
            await stores.jobs.delete(job)
        else:
            await stores.redis.delete(job_keys(job).meta, job_keys(job).log)

    assert await stores.compaction.rewrite(job, meanwhile) in ("GONE", "CHANGED")
    assert await stores.redis.exists(compact_form(job)) == 0
    ttl_ms = await stores.redis.pttl(job_keys(job).log)
    assert 0 <= ttl_ms <= 2_000 if how == "deleted" else ttl_ms == -2


@pytest.mark.parametrize("change", ["xtrim", "xdel", "xadd"])
async def test_a_log_that_changes_while_it_is_rewritten_is_left_as_it_is_then(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(compaction, "PART", 10)
    job = await ended(stores)
    name, (*_, last) = job_keys(job).log, await stores.log.read_all(job)
    left: list[object] = []

    async def meanwhile() -> None:
        if not left:
            if change == "xtrim":
                await stores.redis.xtrim(name, maxlen=41, approximate=False)
            elif change == "xdel":
                await stores.redis.xdel(name, f"{last.id.epoch}-7")
            else:
                await stores.redis.xadd(name, {"t": "!"}, id=f"{last.id.epoch}-{last.id.seq + 1}")
            left.append(await stores.redis.xrange(name))

    assert await stores.compaction.rewrite(job, meanwhile) in ("CHANGED", "OK" if change == "xadd" else "CHANGED")
    if change != "xadd":
        assert await stores.redis.xrange(name) == left[0]
    else:  # it was read with what came
        assert (await stores.log.read_all(job))[-1].event == Token("!")
    assert await stores.redis.exists(compact_form(job)) == 0


async def test_what_comes_behind_the_last_part_that_was_read_is_not_lost(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await ended(stores)
    read = stores.log.read_raw
    name, (*_, last) = job_keys(job).log, await stores.log.read_all(job)

    async def then_more(job: JobKey, start: str, count: int) -> object:
        raw = await read(job, start, count)
        await stores.redis.xadd(name, {"t": "!"}, id=f"{last.id.epoch}-{last.id.seq + 1}")
        return raw

    monkeypatch.setattr(stores.log, "read_raw", then_more)
    assert await stores.compaction.rewrite(job, rest) == "CHANGED"
    monkeypatch.undo()
    assert (await stores.log.read_all(job))[-1].event == Token("!")


class DiedError(Exception):
    """The worker's process ends here."""


async def test_a_worker_that_dies_in_the_middle_leaves_the_log_as_it_was_and_another_begins_anew(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "PART", 10)
    job = await ended(stores)
    log = await stores.log.read_all(job)

    async def dies() -> None:
        raise DiedError

    with pytest.raises(DiedError):
        await stores.compaction.rewrite(job, dies)
    assert 0 < await stores.redis.pttl(compact_form(job)) <= 10_000
    assert await stores.log.read_all(job) == log
    assert await stores.redis.xlen(job_keys(job).log) == len(log)

    assert await stores.compaction.rewrite(job, rest) == "OK"
    assert await stores.log.read_all(job) == log


async def test_two_workers_at_one_log_do_it_no_harm(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "PART", 10)
    job = await ended(stores)
    log = await stores.log.read_all(job)
    verdicts: list[str] = []
    turns: list[int] = []

    async def the_other() -> None:
        turns.append(1)
        if len(turns) == 2:
            monkeypatch.setattr(compaction, "PART", 7)
            verdicts.append(await stores.compaction.rewrite(job, rest))
            monkeypatch.setattr(compaction, "PART", 10)

    verdicts.append(await stores.compaction.rewrite(job, the_other))
    assert verdicts == ["OK", "CHANGED"]
    assert await stores.log.read_all(job) == log


async def test_a_form_that_expired_under_a_slow_worker_is_not_taken_for_the_log(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "PART", 10)
    job = await ended(stores)
    log = await stores.log.read_all(job)

    async def slow() -> None:
        await stores.redis.delete(compact_form(job))

    assert await stores.compaction.rewrite(job, slow) == "CHANGED"
    assert await stores.log.read_all(job) == log


async def test_an_owner_that_repeats_its_last_batch_is_answered_as_before(stores: Stores) -> None:
    job = await create(stores)
    epoch = (await claim(stores, job)).epoch
    await stores.jobs.append(job, epoch, 3, [Token("a"), Token("b"), Token("c")])
    await finish(stores, job, epoch, 6)
    assert await stores.compaction.rewrite(job, rest) == "OK"
    await finish(stores, job, epoch, 6)
    again = await stores.jobs.append(job, epoch, 4, [Token("b"), Token("c")])
    assert (again.verdict, again.last_seq) == ("OK", 6)
    assert len(await stores.log.read_all(job)) == 6
    assert not await stores.jobs.cancel(job, "user")
    assert getattr(await stores.jobs.claim(job, "w2", LEASE_MS), "verdict", "") == "ENDED"


async def test_a_full_store_lets_logs_become_smaller(stores: Stores) -> None:
    if isinstance(stores.redis, fakeredis.FakeAsyncRedis):
        pytest.skip("fakeredis is never full")
    job = await ended(stores, 200)
    await stores.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(StorageError):
            await create(stores)
        assert await stores.compaction.rewrite(job, rest) == "OK"
    finally:
        await stores.redis.config_set("maxmemory", 0)
    used = await stores.redis.memory_usage(job_keys(job).log, samples=0)
    assert used < 2_000


async def test_a_key_of_the_wrong_type_is_a_damaged_record_and_stays(stores: Stores) -> None:
    job = await ended(stores)
    await stores.redis.set(job_keys(job).log, "?", px=60_000)
    with pytest.raises(Exception, match="record") as raised:
        await stores.compaction.rewrite(job, rest)
    assert type(raised.value).__name__ == "RecordError"
    assert await stores.redis.get(job_keys(job).log) == "?"


async def test_the_start_of_a_compact_log_is_read_with_its_first_part(stores: Stores) -> None:
    job = await ended(stores, 5)
    assert await stores.compaction.rewrite(job, rest) == "OK"
    page = await stores.log.read_after(job, START)
    assert (page.held, page.full, len(page.entries)) == (True, False, 8)
