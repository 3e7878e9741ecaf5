"""Every key and channel in Redis/Valkey: one function each, who writes it, and when it ends.

*Log store.* The keys of one job share the hash tag `{tenant/job}`, so one script may touch them all on a cluster.
*Control store.* Queue, idempotency records and indices; it may be another server, so no script spans both.
"""

import hashlib
from typing import NamedTuple

from shared.jobs import JobKey

DAY_MS = 86_400_000
TOMBSTONE_MS = 7 * DAY_MS
"""How long a job that is gone is still answered 410 instead of 404."""
OPEN_SLACK_MS = DAY_MS
"""An open job's keys outlive its deadline by this much: long enough for any reaper to end it first."""
ERASE_MS = 2_000
"""A deleted job's content stays this long, so that attached readers still get their terminal event."""
OPS_MS = 60_000
"""How long an operation token is remembered after the job's end; retries come within seconds."""
COMPACT_FORM_MS = ERASE_MS
"""How long a log's unfinished compact form stays after its last part, where its worker has died: not longer than a
deleted log itself."""
IDEMPOTENCY_MS = DAY_MS
RESERVED_MS = 300_000
"""How long an Idempotency-Key stands for a job that is not made: a POST that is refused leaves no more than this."""

API_KEYS = "tailrace:keys"
"""Control, hash key id → API key without its secret. Permanent: a key lives until it is revoked, and is listed then."""
API_KEYS_VERSION = "tailrace:keys:version"
"""Control, number that rises with every change of a key, so that nodes need not read them all to see one. Permanent."""
API_KEYS_USED = "tailrace:keys:used"
"""Control, hash key id → when it was used last, ms. Permanent, with the keys."""

SIGNING_KEYS = "tailrace:keys:signing"
"""Control, hash kid → what capability tokens are signed with. Permanent: replaced by `tailrace keys rotate`."""

PERMANENT = frozenset({"tailrace:open", "tailrace:queue", API_KEYS, API_KEYS_VERSION, API_KEYS_USED, SIGNING_KEYS})
"""The only keys without a time to live: the index of open jobs and arq's queue, whose members come and go, and the API
keys and signing keys, which an operator makes and takes away."""


class JobKeys(NamedTuple):
    """The log store's keys of one job, in the order in which every script takes them."""

    meta: str
    """Hash: request, status, epoch, attempt … Written by scripts only. Ends with the job's retention."""
    log: str
    """Stream: the events. Written by scripts only. Ends with the job's retention."""
    lease: str
    """String `worker:epoch`: who works on the job. Ends by itself a few seconds after its last renewal."""
    ops: str
    """Hash operation token → result, so that a repetition gets its first result. Ends with the job."""
    tombstone: str
    """String `live` or `deleted`, without content: tells 410 from 404. Outlives the job by seven days."""


def job_keys(job: JobKey) -> JobKeys:
    """The log store's keys of `job`."""
    tag = f"tailrace:{{{job}}}"
    return JobKeys(f"{tag}:meta", f"{tag}:log", f"{tag}:lease", f"{tag}:ops", f"{tag}:tomb")


def compact_form(job: JobKey) -> str:
    """Log, stream: a finished log's compact form while a worker makes it; then it becomes the log. Ends in 10 s."""
    return f"{job_keys(job).log}:compact"


def job_of(meta_key: str) -> str:
    """The `tenant/job` of a job's meta key."""
    return meta_key.partition("{")[2].rpartition("}")[0]


def notice_channel(job: JobKey) -> str:
    """Where scripts tell that the log has grown; the payload is the new last id. A hint: it may be lost."""
    return f"{job_keys(job).log}:n"


WORKER_CHANNEL_PREFIX = "tailrace:worker:"


def worker_channel(worker: str) -> str:
    """Where a worker hears that a job of its was ended by somebody else."""
    return WORKER_CHANNEL_PREFIX + worker


OPEN = "tailrace:open"
"""Control, sorted set `tenant/job` by creation: jobs without a terminal event, for the reaper. Permanent."""

ENDED = "tailrace:ended"
"""Control, sorted set `tenant/job` by when it ended: finished logs that are yet to be rewritten compactly, for the
workers. Ends a day after the last job's end."""

WAKE = "tailrace:wake"
"""Control, list: bells that wake an idle worker. A bell carries the offer that rang it, for older workers, which start
what a bell names. A hint; ends an hour after the last push."""
WAKE_MS = 3_600_000

TURNS = "tailrace:turns"
"""Control, sorted set tenant → number of its last turn, 0 for one that is new. Members leave when their turn comes and
nothing of theirs waits; ends with the last one, or two days after the last offer."""

TAKEN = "tailrace:taken"
"""Control, sorted set offer → until when it is its taker's to claim, ms. Ends a minute after the last take."""

WAITING_PREFIX = "tailrace:waiting:"
RUNNING_PREFIX = "tailrace:running:"
WAITING_MS = 2 * DAY_MS
"""How long an offer stands; the reaper makes another for a job that is still there."""


def waiting(tenant: str) -> str:
    """Control, sorted set of a tenant's offers by priority and age. Ends with the last one, or two days after it."""
    return WAITING_PREFIX + tenant


def running(tenant: str) -> str:
    """Control, sorted set offer → when its seat lapses, ms, of a tenant whose running jobs are limited. Written by take
    and renewed by the workers; ends a lease after the last renewal."""
    return RUNNING_PREFIX + tenant


REAPER_LOCK = "tailrace:reaper"
"""Control, string: which process reaps right now. Ends within seconds."""

WATCHED = "tailrace:watched"
"""Control, string: a reaper has seen both stores at work a moment ago. Ends within seconds of the last sweep."""


def jobs_of(tenant: str) -> str:
    """Control, sorted set of job ids, all of score 0 (ids sort by creation). Ends with the tenant's youngest job."""
    return f"tailrace:jobs:{tenant}"


def places(tenant: str) -> str:
    """Control, sorted set of a tenant's open jobs by when their places lapse, where their number is limited. Written
    with the index of open jobs. Ends with the youngest of them."""
    return f"tailrace:places:{tenant}"


def permits(key_id: str) -> str:
    """Control, string: when (µs since 1970) a key's bucket of requests is full again. Ends a second after that."""
    return f"tailrace:permits:{key_id}"


def readers(key_id: str) -> str:
    """Control, sorted set `node/number` of a key's open event streams by when they began. Written by the nodes in bulk;
    ends a lease after their last word."""
    return f"tailrace:readers:{key_id}"


def reading_nodes(key_id: str) -> str:
    """Control, sorted set of the nodes that serve a key's streams, by when their leases end. As `readers`."""
    return f"tailrace:readers:{key_id}:nodes"


def tokens_of_day(tenant: str, day: str) -> str:
    """Control, hash job id → tokens, and their `total`: what a tenant's jobs of one day (UTC, by their creation) have
    used. Written by workers and the reaper, where that is limited; ends two days after the last word."""
    return f"tailrace:tokens:{tenant}:{day}"


def share(tenant: str) -> str:
    """Control, string: when (ms since 1970) a tenant has its share of the log store again. Ends a second later."""
    return f"tailrace:share:{tenant}"


STARTS = "tailrace:starts"
"""Control, number of jobs that workers have begun, for the estimate of the wait. Ends an hour after the last one."""


def idempotency(tenant: str, key: str) -> str:
    """Control, string `job fingerprint`: what an Idempotency-Key stands for. 24 h, and not shorter than the job;
    while the job is not made, some minutes."""
    return f"tailrace:idem:{tenant}:{hashlib.sha256(key.encode()).hexdigest()}"
