"""What readers see when workers die, freeze or are told to go."""

import asyncio
import signal
from typing import Any

import pytest

from tests.acceptance.conftest import ClusterFactory, quick
from tests.support.cluster import until
from tests.support.watch import assert_whole, finish, read_tokens, read_until, said

PARAMS: dict[str, Any] = {"tokens": 120, "tokens_per_s": 40, "seed": 3}
JOB: Any = {"provider": "scripted", "model": "demo", "prompt": "go", "params": PARAMS}


@pytest.mark.requirement("KL-2")
async def test_a_killed_worker_costs_the_reader_a_reset_and_the_answer_is_whole(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(workers=2)
    async with quick(cluster.url) as tailrace, tailrace.stream(**JOB) as stream:
        await read_tokens(stream, 20)
        owner = cluster.owner_of(str(stream.job_id))
        assert owner is not None
        owner.kill()

        async with asyncio.timeout(10):
            reset = await read_until(stream, lambda event: event.type == "reset")
        terminal = await finish(stream)

        assert reset.data["reason"] == "worker_lost"
        assert reset.data["keep"] == 0
        assert terminal.type == "done"
        assert terminal.data["attempt"] == 2
        await assert_whole(tailrace, stream, said(PARAMS, 2))


@pytest.mark.requirement("KL-5")
async def test_a_frozen_worker_that_wakes_up_writes_nothing_into_its_successors_log(
    cluster_of: ClusterFactory,
) -> None:
    cluster = cluster_of(workers=2)
    async with quick(cluster.url) as tailrace, tailrace.stream(**JOB) as stream:
        await read_tokens(stream, 20)
        owner = cluster.owner_of(str(stream.job_id))
        assert owner is not None
        owner.signal(signal.SIGSTOP)
        await read_until(stream, lambda event: event.type == "start" and event.data["attempt"] == 2)
        await read_tokens(stream, 5)

        owner.signal(signal.SIGCONT)
        terminal = await finish(stream)

        assert terminal.type == "done"
        await assert_whole(tailrace, stream, said(PARAMS, 2))
        assert owner.alive
        until(lambda: "FENCED" in owner.log, 20)


@pytest.mark.requirement("KL-4")
async def test_a_drained_worker_hands_its_jobs_over_and_that_is_no_crash(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(workers=2, env={"TAILRACE_WORKER_DRAIN_S": "0.2"})
    async with quick(cluster.url) as tailrace, tailrace.stream(**JOB) as stream:
        await read_tokens(stream, 20)
        old = cluster.owner_of(str(stream.job_id))

        assert old is not None
        assert old.terminate() == 0
        reset = await read_until(stream, lambda event: event.type == "reset")
        await finish(stream)

        assert reset.data["reason"] == "drained"
        await assert_whole(tailrace, stream, said(PARAMS, 2))


@pytest.mark.requirement("KL-1")
async def test_a_job_that_takes_its_worker_down_three_times_fails_and_harms_no_other(
    cluster_of: ClusterFactory,
) -> None:
    cluster = cluster_of(workers=3, env={"TAILRACE_LEASE_S": "1.5", "TAILRACE_LEASE_RENEW_S": "0.5"})
    poison: dict[str, Any] = {"tokens": 9, "fault": {"kind": "exit", "after": 3, "attempts": 5}}
    async with quick(cluster.url) as tailrace:
        stream = tailrace.stream(provider="scripted", model="demo", prompt="go", params=poison)
        terminal = await finish(stream)

        assert terminal.type == "failed"
        assert terminal.data["code"] == "poisoned"
        until(lambda: not any(worker.alive for worker in cluster.workers))
        cluster.add_worker()
        other = tailrace.stream(**JOB)
        assert (await finish(other)).type == "done"


async def test_a_job_that_takes_its_worker_down_takes_no_job_beside_it_along(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(env={"TAILRACE_LEASE_S": "1.5", "TAILRACE_LEASE_RENEW_S": "0.5"})
    beside: Any = {**JOB, "params": {"tokens": 60, "tokens_per_s": 30}}
    poison: Any = {**JOB, "params": {"tokens": 9, "fault": {"kind": "exit", "after": 3, "attempts": 5}}}
    async with quick(cluster.url) as tailrace, asyncio.TaskGroup() as group:
        streams = [tailrace.stream(**beside) for _ in range(4)]
        for stream in streams:
            await read_tokens(stream, 1)
        ends = [group.create_task(finish(stream)) for stream in (*streams, tailrace.stream(**poison))]
        for _ in range(3):
            await asyncio.to_thread(until, lambda worker=cluster.workers[-1]: not worker.alive)
            await asyncio.to_thread(cluster.add_worker)

    assert [end.result().type for end in ends] == ["done"] * 4 + ["failed"]
    assert ends[-1].result().data["code"] == "poisoned"


async def test_a_job_waits_for_a_worker_and_then_runs(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(workers=0)
    async with quick(cluster.url) as tailrace:
        job = await tailrace.submit(**JOB)
        assert (await tailrace.job(job.id)).status == "queued"

        cluster.add_worker()
        stream = tailrace.events(job.id)
        assert (await finish(stream)).type == "done"


async def test_a_job_without_any_worker_ends_at_its_deadline(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(workers=0, env={"TAILRACE_JOB_DEADLINE_S": "1"})
    async with quick(cluster.url) as tailrace:
        terminal = await finish(tailrace.stream(**JOB))

        assert terminal.type == "failed"
        assert terminal.data["code"] == "deadline_exceeded"


async def test_more_jobs_than_slots_all_end(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(workers=1, env={"TAILRACE_SLOTS": "3"})
    short: Any = {**JOB, "params": {"tokens": 8, "tokens_per_s": 40}}
    async with quick(cluster.url) as tailrace, asyncio.TaskGroup() as group:
        ends = [group.create_task(finish(tailrace.stream(**short))) for _ in range(20)]

    assert {task.result().type for task in ends} == {"done"}


async def test_garbage_in_the_wake_list_harms_no_worker(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    async with quick(cluster.url) as tailrace, tailrace.stream(**JOB) as stream:
        await read_tokens(stream, 10)
        with cluster.valkey.client() as client:
            client.lpush("tailrace:wake", "garbage", "a/b.c", "")
        terminal = await finish(stream)

        assert terminal.data["attempt"] == 1
        assert cluster.workers[0].alive


async def test_a_new_job_does_not_wait_behind_150_that_run(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(env={"TAILRACE_SLOTS": "151"})
    silent: Any = {**JOB, "params": {"first_token_ms": 600_000}}
    short: Any = {**JOB, "params": {"tokens": 8}}
    async with quick(cluster.url) as tailrace:
        running = await asyncio.gather(*(tailrace.submit(**silent) for _ in range(150)))
        for _ in range(3):
            assert (await finish(tailrace.stream(**short))).type == "done"

        assert {(await tailrace.job(job.id)).status for job in running} == {"running"}
