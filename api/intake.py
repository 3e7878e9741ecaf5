"""Taking a job in: what a POST stands for, a new job or one that was made before under its Idempotency-Key.

The key's record (NX) comes before all else, so that a crash anywhere behind it is completed by a retry (DESIGN §4). It
lapses within minutes until the job is made: a flood of refused POSTs leaves next to nothing in the store.
"""

import re
import time

from api.limits import within
from api.node import Node
from shared.errors import StorageError, TailraceError
from shared.jobs import JobKey, JobRecord, JobRequest, new_job_id
from shared.principals import Principal
from shared.storage.control import Reservation
from shared.storage.creation import Creation
from shared.storage.keys import OPEN_SLACK_MS, RESERVED_MS

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


async def take_in(
    node: Node, principal: Principal, asked: JobRequest, idempotency_key: str | None
) -> tuple[JobRecord, bool]:
    """The job for a POST, and whether it was made before (a replay of the same key and body)."""
    settings = node.settings
    if node.leaving.done():
        raise TailraceError("draining", retry_after_s=1)
    tenant, limits = principal.tenant, node.limiter.of(principal)
    request = within(limits, asked, frozenset(settings.chains))
    job, others = JobKey(tenant, new_job_id()), False
    ttl_s = request.ttl_s or settings.job_ttl_s
    began_s, keeping = time.time(), []
    if idempotency_key is not None:
        # Of what was asked: what a limit adds may change.
        wanted = Reservation(job.id, node.store.fingerprint(asked))
        found = await node.control.reserve(tenant, idempotency_key, wanted)
        job, others = JobKey(tenant, found.job_id), found.job_id != wanted.job_id
        if not node.store.is_of(job, found.fingerprint, asked):
            raise TailraceError("idempotency_conflict")
        if others:
            existing = await _existing(node, job)
            if existing is not None:
                if settings.replicas:  # the first answer may have been that they do not have it
                    await node.store.create(_creation(node, job, request, ttl_s))
                return existing, True
        keep_ms = round(settings.job_deadline_s * 1000) + OPEN_SLACK_MS + ttl_s * 1000
        keeping.append(node.control.keeping_key(tenant, idempotency_key, keep_ms))
    node.load.find_room(tenant)
    place = await node.maker.find_room(job, limits, node.load.share(request, limits, ttl_s))
    if time.time() - began_s > RESERVED_MS / 2000:
        # A machine that slept meanwhile: its record may have lapsed, and the key may be another job's by now.
        raise StorageError("storage_unavailable", retry_after_s=1)
    made = await node.maker.make(_creation(node, job, request, ttl_s), place, keeping)
    # Whoever reserved the key has made the job, whichever of the requests under it was the first to write it.
    return made or await node.store.show(job), others


def _creation(node: Node, job: JobKey, request: JobRequest, ttl_s: int) -> Creation:
    settings = node.settings
    unread_s = request.cancel_if_unread_s or settings.cancel_if_unread_s or None
    return Creation(job, request, settings.job_deadline_s, ttl_s, unread_s)


async def _existing(node: Node, job: JobKey) -> JobRecord | None:
    """The job that a key stands for; None where its POST died before the log was made. `gone` as ever."""
    try:
        return await node.store.show(job)
    except TailraceError as error:
        if error.code == "not_found":
            return None
        raise
