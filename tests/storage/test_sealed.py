"""Stored text where it is sealed: nothing of it stands in the store in clear, and all else works as before."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from shared.errors import RecordError, SealedError
from shared.events import START, Done, Event, Queued, Reasoning, Reset, Start, Token, ToolCall
from shared.jobs import Act, JobKey, JobRequest, Message
from shared.ring import RingKey
from shared.storage.batch import Batcher
from shared.storage.compaction import LogCompaction
from shared.storage.connect import Redis
from shared.storage.creation import Creation
from shared.storage.jobs import Claimed, JobStore
from shared.storage.keys import job_keys
from shared.storage.log import EventLog
from shared.storage.sealed import PLAIN, SealedValues, Values
from shared.transcript import fold
from shared.vault import Vault
from tests.storage import acts
from tests.support.loops import running
from tests.support.stores import everything_in

OLD, NEW = RingKey("old", b"o" * 32), RingKey("new", b"n" * 32)
CANARY = "canary-7Q"
REQUEST = JobRequest(
    "scripted",
    "demo",
    [Message("user", f"asked {CANARY}")],
    system=f"system {CANARY}",
    metadata={"note": CANARY},
    params={"text": CANARY},
)
CONTENT: list[Event] = [
    Token(f"{CANARY} one ", at_ms=3),
    *[Token(f"{CANARY} {number} ") for number in range(20)],
    Reasoning(CANARY),
    Reasoning(f"{CANARY} again"),
    ToolCall(0, "id", CANARY, ""),
    ToolCall(0, "", "", f'{{"q":"{CANARY}"}}'),
    Reset(2, 3, "provider_error", text=CANARY),
    Token("é🌊\r\n\u2028" + CANARY),
]


@dataclass
class Process:
    """What one process has of the storage layer."""

    jobs: JobStore
    log: EventLog
    compaction: LogCompaction


@asynccontextmanager
async def process(redis: Redis, *ring: RingKey) -> AsyncIterator[Process]:
    """A process with these keys; with none it seals nothing."""
    values: Values = SealedValues(Vault(ring)) if ring else PLAIN
    batcher, log = Batcher(redis, values=values), EventLog(redis, values=values)
    async with running(batcher.run()):
        yield Process(JobStore(redis, batcher), log, LogCompaction(log, batcher))


async def _no_rest() -> None:
    pass


async def _make(process: Process, job: JobKey) -> None:
    assert await process.jobs.create(Creation(job, REQUEST, deadline_s=60, ttl_s=60))


async def _take(process: Process, job: JobKey) -> Claimed:
    taken = await process.jobs.claim(job, "w", acts.LEASE_MS)
    assert isinstance(taken, Claimed)
    return taken


async def _answer(process: Process, taken: Claimed, events: Sequence[Event] = CONTENT) -> None:
    job, half = taken.record.key, len(events) // 2
    assert (await process.jobs.append(job, taken.epoch, taken.seq + 1, list(events[:half]), 3)).verdict == "OK"
    end = [*events[half:], acts.DONE]
    answer = await process.jobs.finish(job, taken.epoch, taken.seq + 1 + half, end, act=Act.DONE, usage={})
    assert answer.verdict == "OK"


async def _whole(process: Process, job: JobKey) -> None:
    await _make(process, job)
    await _answer(process, await _take(process, job))


async def _content(process: Process, job: JobKey) -> list[Event]:
    return [e.event for e in await process.log.read_all(job) if not isinstance(e.event, Queued | Start | Done)]


async def test_no_text_stands_in_the_store_at_any_time_of_a_jobs_life(redis_client: Redis, job: JobKey) -> None:
    async with process(redis_client, NEW) as one:
        await _make(one, job)
        assert CANARY not in await everything_in(redis_client)
        taken = await _take(one, job)
        assert taken.record.request == REQUEST
        await _answer(one, taken)
        assert CANARY not in await everything_in(redis_client)
        assert await _content(one, job) == CONTENT
        assert await one.compaction.rewrite(job, _no_rest) == "OK"
        assert CANARY not in await everything_in(redis_client)
        assert await _content(one, job) == CONTENT
        assert (await one.jobs.show(job)).request == REQUEST
        assert await one.compaction.rewrite(job, _no_rest) == "LEFT"


async def test_the_same_job_in_clear_would_have_been_found(redis_client: Redis, job: JobKey) -> None:
    async with process(redis_client) as one:
        await _whole(one, job)
        assert CANARY in await everything_in(redis_client)
        assert await one.compaction.rewrite(job, _no_rest) == "OK"
        await redis_client.delete(job_keys(job).meta)
        assert CANARY in await everything_in(redis_client)


async def test_a_log_from_before_stays_readable_and_becomes_sealed_when_it_is_rewritten(
    redis_client: Redis, job: JobKey
) -> None:
    async with process(redis_client) as before, process(redis_client, NEW) as after:
        await _make(before, job)
        taken = await _take(before, job)
        first, rest = CONTENT[:5], CONTENT[5:]
        assert (await before.jobs.append(job, taken.epoch, taken.seq + 1, list(first), 3)).verdict == "OK"
        end = [*rest, acts.DONE]
        seq = taken.seq + 1 + len(first)
        assert (await after.jobs.finish(job, taken.epoch, seq, end, act=Act.DONE, usage={})).verdict == "OK"
        assert (await after.jobs.show(job)).request == REQUEST
        assert await _content(after, job) == CONTENT
        assert await after.compaction.rewrite(job, _no_rest) == "OK"
        assert await _content(after, job) == CONTENT
        await redis_client.delete(job_keys(job).meta)
        assert CANARY not in await everything_in(redis_client)


async def test_after_a_rotation_all_is_read_and_a_rewritten_log_needs_the_new_key_alone(
    redis_client: Redis, job: JobKey
) -> None:
    async with process(redis_client, OLD) as before:
        await _whole(before, job)
    async with process(redis_client, NEW, OLD) as rotated:
        assert await _content(rotated, job) == CONTENT
        assert await rotated.compaction.rewrite(job, _no_rest) == "OK"
    async with process(redis_client, NEW) as after:
        assert await _content(after, job) == CONTENT


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("ring", [(), (NEW,)], ids=["no key", "another key"])
async def test_what_cannot_be_opened_is_an_error_and_never_a_text_with_holes(
    redis_client: Redis, job: JobKey, ring: tuple[RingKey, ...], compact: bool
) -> None:
    async with process(redis_client, OLD) as owner:
        await _whole(owner, job)
        if compact:
            assert await owner.compaction.rewrite(job, _no_rest) == "OK"
    async with process(redis_client, *ring) as stranger:
        with pytest.raises(SealedError):
            await stranger.jobs.show(job)
        with pytest.raises(SealedError):
            await stranger.log.read_after(job, START)
        with pytest.raises(SealedError):
            await stranger.log.read_all(job)
        assert await stranger.jobs.show_many([job]) == [None]


async def test_one_log_that_cannot_be_opened_hides_no_other(redis_client: Redis) -> None:
    mine, others, changed = acts.new_job(), acts.new_job(), acts.new_job()
    async with process(redis_client, OLD) as owner:
        await _whole(owner, others)
    async with process(redis_client, NEW) as reader:
        await _whole(reader, mine)
        await _whole(reader, changed)
        await _move(redis_client, mine, changed)
        wanted = [(job, START) for job in (others, mine, changed)]
        foreign, own, moved = await reader.log.read_many(wanted, 200)
        assert fold(entry.event for entry in own.entries).text.startswith(CANARY[:3])
        assert not foreign.held
        assert not moved.held
        shown = await reader.jobs.show_many([others, mine, changed])
        assert [record is None for record in shown] == [True, False, False]
        assert await reader.compaction.rewrite(others, _no_rest) in ("LEFT", "OK")


async def _move(redis: Redis, source: JobKey, target: JobKey) -> None:
    """Somebody with the store's password puts one job's log into another's place."""
    assert await redis.copy(job_keys(source).log, job_keys(target).log, replace=True)


async def test_values_cannot_be_moved_to_another_job(redis_client: Redis) -> None:
    mine, others = acts.new_job("acme"), acts.new_job("umbra")
    async with process(redis_client, NEW) as one:
        await _whole(one, mine)
        await _whole(one, others)
        await _move(redis_client, mine, others)
        with pytest.raises(RecordError):
            await one.log.read_all(others)
        redis: Any = redis_client
        stolen = await redis.hget(job_keys(mine).meta, "request")
        await redis.hset(job_keys(others).meta, "request", stolen)
        with pytest.raises(RecordError):
            await one.jobs.show(others)


async def test_a_worker_without_the_key_gives_the_job_back_and_one_with_it_does_it(
    redis_client: Redis, job: JobKey
) -> None:
    async with process(redis_client, NEW, OLD) as node, process(redis_client, OLD) as lacking:
        await _make(node, job)
        with pytest.raises(SealedError):
            await lacking.jobs.claim(job, "w1", acts.LEASE_MS)
        taken = await _take(node, job)
        await _answer(node, taken)
        assert (taken.record.crashes, taken.attempt) == (0, 2)
        assert (await node.jobs.show(job)).status == "done"


async def test_a_repeated_append_finds_its_events_although_they_are_sealed_anew(
    redis_client: Redis, job: JobKey
) -> None:
    async with process(redis_client, NEW) as one:
        await _make(one, job)
        taken = await _take(one, job)
        for _ in "123":
            answer = await one.jobs.append(job, taken.epoch, taken.seq + 1, [Token("a"), Token("b")])
            assert answer.verdict == "OK"
        assert [e.event for e in await one.log.read_all(job) if isinstance(e.event, Token)] == [Token("a"), Token("b")]


async def test_a_bodys_fingerprint_stays_comparable_when_keys_come_and_go(redis_client: Redis) -> None:
    async with (
        process(redis_client) as plain,
        process(redis_client, OLD) as old,
        process(redis_client, NEW, OLD) as new,
    ):
        first, second = plain.jobs.fingerprint(REQUEST), old.jobs.fingerprint(REQUEST)
        assert second != first
        assert old.jobs.is_of(JobKey("acme", "j"), first, REQUEST)
        assert new.jobs.is_of(JobKey("acme", "j"), second, REQUEST)
        assert not new.jobs.is_of(JobKey("acme", "j"), second, acts.request())


async def test_a_repetition_is_no_conflict_for_a_process_that_cannot_compare_it(
    redis_client: Redis,
) -> None:
    """While a ring is rolled out, the same POST may come to a node that has it and to one that has not."""
    async with process(redis_client) as plain, process(redis_client, OLD) as old, process(redis_client, NEW) as new:
        made = old.jobs.fingerprint(REQUEST)
        for other in (plain, new):
            with pytest.raises(SealedError) as caught:
                other.jobs.is_of(JobKey("acme", "j"), made, REQUEST)
            assert (caught.value.kid, caught.value.kind.status, caught.value.kind.retryable) == ("old", 503, True)
