"""Keeping leases: a worker's own claim is not taken for somebody else's, and one damaged record stops nobody."""

from typing import Any, cast

import pytest

from shared.storage.jobs import Claimed
from shared.storage.keys import job_keys
from tests.storage import acts
from tests.storage.conftest import Stores
from worker.claim import Taken
from worker.generate import Generation, Stop
from worker.lease import LeaseKeeper


async def _generation(stores: Stores) -> Generation:
    """A job that `w1` holds."""
    job = await acts.create(stores)
    return Generation(cast("Any", None), job, Taken(await acts.claim(stores, job)))


def _keeper(stores: Stores, *generations: Generation) -> LeaseKeeper:
    return LeaseKeeper(stores.jobs, "w1", lambda: generations, every_s=0.01, lease_ms=acts.LEASE_MS)


@pytest.mark.parametrize("claiming", [True, False])
async def test_a_claim_of_ours_whose_answer_is_under_way_does_not_stop_the_job(stores: Stores, claiming: bool) -> None:
    generation = await _generation(stores)
    generation.claiming = claiming
    next_one = await stores.jobs.claim(
        generation.job, "w1", acts.LEASE_MS, epoch=generation.epoch, reason="provider_error", usage={}
    )
    assert isinstance(next_one, Claimed)

    await _keeper(stores)._renew(generation)

    assert generation._stop.done() is not claiming
    if not claiming:
        assert generation._stop.result() is Stop.FENCED, "without a claim under way it is somebody else's"


async def test_a_damaged_record_keeps_no_other_lease_from_being_renewed(stores: Stores) -> None:
    damaged, well = await _generation(stores), await _generation(stores)
    redis: Any = stores.redis
    await redis.hdel(job_keys(damaged.job).meta, "epoch")
    await redis.delete(job_keys(damaged.job).lease)
    await redis.pexpire(job_keys(well.job).lease, 1_000)

    for generation in (damaged, well):
        await _keeper(stores)._renew(generation)

    assert await redis.pttl(job_keys(well.job).lease) > 1_000
