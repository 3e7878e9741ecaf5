"""Limits when processes die and stores hang: what was used is counted, and nobody who reads pays for it."""

import contextlib
import signal
from pathlib import Path
from typing import Any

import pytest

from shared.storage.keys import places, tokens_of_day
from shared.storage.limits import day_of
from tests.acceptance.conftest import ClusterFactory, quick
from tests.support.cluster import Cluster, until
from tests.support.stores import running_valkey
from tests.support.watch import finish, read_tokens
from tests.support.wire import Wire, assert_problem

KEYED = {"TAILRACE_API_KEYS": "acme:key-of-acme"}
BUDGET = {**KEYED, "TAILRACE_TENANT_TOKENS_PER_DAY": "1000000"}
JOB: Any = {"provider": "scripted", "model": "demo", "prompt": "go", "params": {"tokens": 5000, "tokens_per_s": 50}}


def _spent(cluster: Cluster, job_id: str) -> int:
    with contextlib.closing(cluster.valkey.client()) as client:
        found: Any = client.hget(tokens_of_day("acme", day_of(job_id)), job_id)
        return int(found or 0)


def _places(cluster: Cluster) -> int:
    with contextlib.closing(cluster.valkey.client()) as client:
        found: Any = client.zcard(places("acme"))
        return int(found)


async def test_a_job_that_is_cancelled_counts_what_it_has_shown(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(env=BUDGET)
    async with quick(cluster.url, "key-of-acme") as tailrace, tailrace.stream(**JOB) as stream:
        await read_tokens(stream, 20)
        job_id = str(stream.job_id)
        assert _places(cluster) == 1
        await tailrace.cancel(job_id)
        until(lambda: _spent(cluster, job_id) >= 20)
        until(lambda: _places(cluster) == 0)


async def test_a_worker_that_is_told_to_go_counts_what_its_jobs_have_used_and_goes(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(env={**BUDGET, "TAILRACE_WORKER_DRAIN_S": "0"})
    async with quick(cluster.url, "key-of-acme") as tailrace, tailrace.stream(**JOB) as stream:
        await read_tokens(stream, 20)
        job_id = str(stream.job_id)
        assert cluster.workers[0].terminate() == 0
        until(lambda: _spent(cluster, job_id) >= 20)
        assert _places(cluster) == 1  # it waits for another worker
        await tailrace.cancel(job_id)
        until(lambda: _places(cluster) == 0)


@pytest.mark.requirement("LT-13")
async def test_a_tenant_that_has_filled_its_share_of_the_store_keeps_no_other_out(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, {"TAILRACE_API_KEYS": "bolt:key-of-bolt,acme:key-of-acme"})
    large = {"provider": "scripted", "model": "demo", "prompt": "x" * 200_000, "params": {"tokens": 1}}
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.stop)
        cluster.valkey.start()
        with contextlib.closing(cluster.valkey.client()) as client:
            client.config_set("maxmemory", 64_000_000)
        cluster.add_api()
        cluster.add_worker()
        async with Wire(cluster.url, "key-of-bolt") as bolt, Wire(cluster.url, "key-of-acme") as acme:
            answers = [await bolt.create(large | {"ttl_s": 3600}) for _ in range(100)]
            made = sum(answer.status_code == 202 for answer in answers)
            assert 60 <= made <= 100 * 0.9
            assert_problem(answers[-1], 429, "budget_spent")
            assert 1 <= int(answers[-1].headers["retry-after"]) <= 3600
            assert (await acme.create(large)).status_code == 202


async def test_readers_do_not_feel_a_control_store_that_hangs(cluster_of: ClusterFactory, tmp_path: Path) -> None:
    with running_valkey(tmp_path / "control") as control:
        cluster = cluster_of(env={**KEYED, "TAILRACE_CONTROL_REDIS_URL": control.url})
        async with quick(cluster.url, "key-of-acme") as tailrace:
            short = {**JOB, "params": {"tokens": 60, "tokens_per_s": 30}}
            async with tailrace.stream(**short) as stream:
                await read_tokens(stream, 5)
                control.signal(signal.SIGSTOP)
                try:
                    # Shown, and read anew, within less than the store's time-out, which is what asking it would cost.
                    job = await tailrace.job(str(stream.job_id))
                    assert job.status == "running"
                    async for event in tailrace.events(job.id):
                        if event.type == "token":
                            break
                    terminal = await finish(stream)
                    assert terminal.type == "done"
                finally:
                    control.signal(signal.SIGCONT)
