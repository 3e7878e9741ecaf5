"""Taking a job in: the steps of a POST, ordered so that a crash between any two leaves nothing half-made for good.

Idempotency record (NX) → index of open jobs → log → offer (DESIGN §4). A retry or the reaper completes any prefix; from
the log on, the answer is 202 whatever happens to the offer.
"""

import hashlib
import logging
import re
import time

import msgspec

from api.node import Node
from shared.errors import StorageError, TailraceError
from shared.jobs import JobKey, JobRecord, JobRequest, new_job_id
from shared.storage.control import Reservation
from shared.storage.keys import OPEN_SLACK_MS, TOMBSTONE_MS

log = logging.getLogger(__name__)

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def check_key(key: str | None) -> str | None:
    """An Idempotency-Key as it may be stored; `invalid_request` for anything odd."""
    if key is not None and not _KEY.fullmatch(key):
        raise TailraceError(
            "invalid_request",
            "Idempotency-Key is 1 to 255 visible ASCII characters without blanks.",
            field="Idempotency-Key",
        )
    return key


def fingerprint(request: JobRequest) -> str:
    """The hash of the validated body with its defaults: the same question, however it was written."""
    return hashlib.sha256(msgspec.json.encode(request, order="sorted")).hexdigest()


async def take_in(node: Node, tenant: str, request: JobRequest, idempotency_key: str | None) -> tuple[JobRecord, bool]:
    """The job for a POST, and whether it was made before (a replay of the same key and body)."""
    settings = node.settings
    if node.leaving.done():
        raise TailraceError("draining", retry_after_s=1)
    job, others = JobKey(tenant, new_job_id()), False
    ttl_s = request.ttl_s or settings.job_ttl_s
    keep_ms = round(settings.job_deadline_s * 1000) + OPEN_SLACK_MS + ttl_s * 1000
    if idempotency_key is not None:
        wanted = Reservation(job.id, fingerprint(request))
        found = await node.control.reserve(tenant, idempotency_key, wanted, keep_ms)
        if found.fingerprint != wanted.fingerprint:
            raise TailraceError("idempotency_conflict")
        job, others = JobKey(tenant, found.job_id), found != wanted
        if others:
            existing = await _existing(node, job)
            if existing is not None:
                if settings.replicas:  # the first answer may have been that they do not have it
                    await _make(node, job, request, ttl_s)
                return existing, True
    # Looked at before anything is written: a refusal must neither count as a job nor take away another's place.
    if await node.control.open_count() >= settings.max_queued_jobs:
        raise TailraceError("queue_full", retry_after_s=5)
    # The tenant's list is trimmed by one measure for all its jobs, or a short-lived one would take others off it.
    listed_ms = round(settings.job_deadline_s * 1000) + OPEN_SLACK_MS + settings.max_job_ttl_s * 1000 + TOMBSTONE_MS
    await node.control.index(job, time.time_ns() // 1_000_000, listed_ms)
    made = await _make(node, job, request, ttl_s)
    await _offer(node, job, request.priority)
    # Whoever reserved the key has made the job, whichever of the requests under it was the first to write it.
    return made or await node.store.show(job), others


async def _make(node: Node, job: JobKey, request: JobRequest, ttl_s: int) -> JobRecord | None:
    return await node.store.create(
        job,
        request,
        deadline_s=node.settings.job_deadline_s,
        ttl_s=ttl_s,
        unread_s=request.cancel_if_unread_s or node.settings.cancel_if_unread_s or None,
    )


async def _existing(node: Node, job: JobKey) -> JobRecord | None:
    """The job that a key stands for; None where its POST died before the log was made. `gone` as ever."""
    try:
        return await node.store.show(job)
    except TailraceError as error:
        if error.code == "not_found":
            return None
        raise


async def _offer(node: Node, job: JobKey, priority: int) -> None:
    try:
        await node.queue.offer(job, epoch=0, priority=priority)
    except StorageError as error:
        log.warning("job %s: not offered (%s); the reaper will do it", job, error.code)
