"""The job store: every change of a job's state, each one server-side script, and reading jobs back."""

import asyncio
import logging
import random
import secrets
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from shared import metrics
from shared.errors import CODES, RecordError, SealedError, TailraceError
from shared.events import Event, EventId
from shared.jobs import Act, JobKey, JobRecord, JobRequest, Status, Upstream
from shared.storage import scripts
from shared.storage.appends import Appended, Appending, Batch
from shared.storage.batch import Batcher
from shared.storage.connect import Redis, readable, sound, storage_errors
from shared.storage.creation import Creation
from shared.storage.keys import WORKER_CHANNEL_PREFIX, job_keys
from shared.storage.reads import Line, Pooled
from shared.storage.sealed import tell
from shared.storage.sending import exchange
from shared.storage.transactions import Command

log = logging.getLogger(__name__)

_encode = msgspec.json.encode
_STANDING = ["status", "epoch", "attempt", "crashes", "deadline_ms", "priority", "created_ms", "unread_ms", "read_ms"]
_LETTER_OF = {Act.FAILED: "f", Act.CANCELLED: "z"}


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job taken: the epoch that is now mine, and the last id that the claim left in the log."""

    epoch: int
    seq: int
    attempt: int
    at_ms: int
    record: JobRecord


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a claim did not take the job; the verdicts are those of claim_v1.lua."""

    verdict: str
    epoch: int = 0
    last: EventId | None = None
    upstream: Upstream | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What the reaper needs to know of an open job."""

    lease_ms: int
    """How long the lease lives on; 0 where nobody holds one."""
    status: Status
    epoch: int
    attempt: int
    crashes: int
    deadline_ms: int
    priority: int
    unread_at_ms: int | None = None
    """When it is to be cancelled unless somebody reads it before (ms since 1970); None: never."""


def fencing_chance() -> int:
    """The random part of a new epoch (DESIGN §1)."""
    return random.randint(1, 999_999)


def operation_token() -> str:
    """A fresh name for one operation, the same for its retries."""
    return secrets.token_urlsafe(9)


class JobStore:
    """Jobs in the log store. All methods raise StorageError where it cannot be reached."""

    def __init__(self, redis: Redis, batcher: Batcher, line: Line | None = None) -> None:
        """`line`: over which one job is shown, where not over the client's pool."""
        self._redis = redis
        self._line = line or Pooled(redis)
        self._batcher = batcher
        self._values = batcher.values

    async def create(self, creation: Creation) -> JobRecord | None:
        """Make the job; idempotent by its id. None where it was there already; `gone` where it has been and went."""
        args = creation.args(self._values)
        return creation.record(await self._batcher.call(scripts.CREATE, job_keys(creation.job), args))

    def creating(self, creation: Creation, flags: bool) -> Command:
        """The command of `create`, for a transaction. `flags`: whether the server knows script flags."""
        return creation.command(flags, self._values)

    def fingerprint(self, request: JobRequest) -> str:
        """The hash of a body with its defaults, however it was written."""
        return self._values.fingerprint(_encode(request, order="sorted"))

    def is_of(self, job: JobKey, fingerprint: str, request: JobRequest) -> bool:
        """Whether the `fingerprint` under which `job` was asked for is that of `request`. SealedError where it was made
        with a key that this process has not: nobody can tell here, and another node can."""
        try:
            return fingerprint == self._values.fingerprint(_encode(request, order="sorted"), fingerprint)
        except SealedError as error:
            tell(job, error)
            raise

    async def show(self, job: JobKey) -> JobRecord:
        """The job's record. TailraceError `not_found`, or `gone` for one that has expired or was deleted."""
        keys = job_keys(job)
        with storage_errors():
            fields, tombstone = map(sound, await self._line.exchange([("HGETALL", keys.meta), ("GET", keys.tombstone)]))
        meta = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
        if meta and tombstone != "deleted":
            return self._record(job, meta)
        raise TailraceError("gone" if tombstone else "not_found")

    async def show_many(self, jobs: list[JobKey]) -> list[JobRecord | None]:
        """The records of `jobs`, None for each that is gone, or cannot be opened."""
        with storage_errors():
            pipe = self._redis.pipeline(transaction=False)
            for job in jobs:
                keys = job_keys(job)
                pipe.hgetall(keys.meta)
                pipe.get(keys.tombstone)
            answers = await pipe.execute() if jobs else []
        pairs = zip(answers[::2], answers[1::2], strict=True)
        return [
            self._record_if(job, meta) if meta and tombstone != "deleted" else None
            for job, (meta, tombstone) in zip(jobs, pairs, strict=True)
        ]

    def _record(self, job: JobKey, meta: dict[str, str]) -> JobRecord:
        try:
            request = self._values.opened_request(job_keys(job), meta["request"])
        except SealedError as error:
            tell(job, error)
            raise
        return _record(job, {**meta, "request": request})

    def _record_if(self, job: JobKey, meta: dict[str, str]) -> JobRecord | None:
        """One among many: what is wrong with it must not hide the others."""
        try:
            return self._record(job, meta)
        except SealedError:
            return None
        except RecordError as error:
            log.error("job %s: %s", job, error.message)  # noqa: TRY400 - a trace would say nothing of the record
            return None

    async def ping(self) -> None:
        """Nothing, or StorageError."""
        with storage_errors():
            await self._redis.ping()

    async def memory(self) -> tuple[int, int]:
        """How many bytes the server uses, and may use; 0: as many as there are."""
        with storage_errors():
            found: dict[str, Any] = await self._redis.info("memory")
        return int(found.get("used_memory", 0)), int(found.get("maxmemory", 0))

    async def standings(self, jobs: list[JobKey]) -> tuple[int, list[Standing | None]]:
        """The store's clock (ms since 1970), and for each job how it stands; None where there is none."""
        with storage_errors():
            commands: list[tuple[str, ...]] = [("TIME",)]
            for job in jobs:
                keys = job_keys(job)
                commands += [("HMGET", keys.meta, *_STANDING), ("PTTL", keys.lease)]
            now, *rows = await exchange(self._redis, commands)
            seconds, micros = map(int, sound(now))
            rows = [readable(row) for row in rows]
        standings = [_standing(meta, left_ms) for meta, left_ms in zip(rows[::2], rows[1::2], strict=True)]
        return seconds * 1000 + micros // 1000, standings

    async def claim(
        self, job: JobKey, worker: str, lease_ms: int, *, token: str | None = None, **more: Any
    ) -> Claimed | Refused:
        """Take the job for `worker`. `more`: see `_claim_args`. The record that comes with it shows the state after.

        `token`: the name of this operation where it may have been tried before; then the first try's answer counts.
        """
        token = token or operation_token()
        answer = await self._batcher.call(scripts.CLAIM, job_keys(job), _claim_args(token, worker, lease_ms, **more))
        if answer[0] != "OK":
            if answer[0] == "NEED_TEXT":
                return Refused(answer[0], last=EventId.parse(answer[1]), upstream=Upstream.parse(answer[2]))
            return Refused(
                answer[0], epoch=int(answer[1]) if answer[0] not in ("GONE", "ENDED", "BUSY", "STALE") else 0
            )
        epoch, seq, attempt, at_ms = map(int, answer[1:5])
        fields: Any = answer[5]
        if not fields:
            return Refused("GONE")  # the answer to an old try: the job has ended since, and was forgotten
        meta = dict(zip(fields[::2], fields[1::2], strict=True))
        try:
            record = self._record(job, meta)
        except SealedError:
            # For a worker with the whole ring of keys: that costs the job an attempt, a lapsed lease would be a crash.
            await self.release(job, worker, epoch, msgspec.json.decode(meta["usage"]))
            raise
        return Claimed(epoch, seq, attempt, at_ms, record)

    async def append(
        self,
        job: JobKey,
        epoch: int,
        first_seq: int,
        events: list[Event],
        ttft_ms: int | None = None,
        upstream: Upstream | Literal["", "-"] = "",
    ) -> Appended:
        """Compare-and-append `events` as `<epoch>-<first_seq>`…; `ttft_ms` with an attempt's first content event.

        `upstream`: what covers exactly the log with these events; "" leaves it as it is, "-" says that there is none.
        """
        once = _Once(Batch(job_keys(job), epoch, first_seq, events, ttft_ms, upstream))
        self.append_from(once)
        return await once.answer

    def append_from(self, source: Appending) -> None:
        """Have the next batch of `source` appended, joined with those of other jobs; see `Appends.ask`."""
        self._batcher.appends.ask(source)

    async def finish(
        self,
        job: JobKey,
        epoch: int,
        first_seq: int,
        events: list[Event],
        *,
        act: Act,
        usage: dict[str, int],
        ttft_ms: int | None = None,
    ) -> Appended:
        """Append the owner's last batch, which ends in the terminal event, and close the job."""
        keys = job_keys(job)
        pairs = self._values.events(keys, epoch, first_seq, events)
        args: list[str | int] = [epoch, first_seq, len(events), "" if ttft_ms is None else ttft_ms, act.value]
        args += [pairs[-1], _encode(usage).decode(), *pairs]
        verdict, last_seq = await self._batcher.call(scripts.FINISH, keys, args)
        if verdict == "OK":
            metrics.finished(act.value, getattr(events[-1], "code", ""), getattr(events[-1], "timings", {}))
        return Appended(verdict, int(last_seq))

    async def renew(self, job: JobKey, worker: str, epoch: int, lease_ms: int) -> str:
        """Keep the lease: OK, LOST, ENDED, STALE or GONE."""
        return (await self._batcher.call(scripts.RENEW, job_keys(job), (worker, epoch, lease_ms)))[0]

    async def pardon(self, job: JobKey, worker: str) -> None:
        """Count one crash less, once in the job's life, if `worker` runs it."""
        await self._batcher.call(scripts.PARDON, job_keys(job), (worker,))

    async def release(self, job: JobKey, worker: str, epoch: int, usage: dict[str, int]) -> bool:
        """Give the job back unfinished; False where it was not this worker's any more."""
        args = (operation_token(), worker, epoch, _encode(usage).decode())
        return (await self._batcher.call(scripts.RELEASE, job_keys(job), args))[0] == "OK"

    async def cancel(self, job: JobKey, reason: str, *, epoch: int | None = None) -> bool:
        """End the job as cancelled, if `epoch` still runs; False where it had ended before or is gone."""
        return await self._end(job, Act.CANCELLED, reason, f'"reason":{_encode(reason).decode()}', epoch=epoch)

    async def attend(self, job: JobKey) -> None:
        """Note that somebody reads the job now."""
        await self._batcher.call(scripts.READ, job_keys(job), ())

    async def fail(self, job: JobKey, code: str, *, epoch: int | None = None, unleased: bool = False) -> bool:
        """End the job as failed with a code of ours, if `epoch` still runs and, with `unleased`, nobody works on it."""
        kind = CODES[code]
        body = {"code": code, "message": f"{kind.title}. {kind.advice}", "retryable": kind.retryable}
        return await self._end(job, Act.FAILED, code, _encode(body).decode()[1:-1], epoch=epoch, unleased=unleased)

    async def _end(
        self, job: JobKey, act: Act, code: str, head: str, *, epoch: int | None = None, unleased: bool = False
    ) -> bool:
        args = (
            operation_token(),
            fencing_chance(),
            act.value,
            "" if epoch is None else epoch,
            "1" if unleased else "0",
            _LETTER_OF[act],
            head,
            WORKER_CHANNEL_PREFIX,
        )
        ended = (await self._batcher.call(scripts.END, job_keys(job), args))[0] == "OK"
        if ended:
            metrics.JOBS_ENDED.labels(act.value, code).inc()
        return ended

    async def delete(self, job: JobKey) -> bool:
        """Hide and soon erase an ended job; False where it is still open. Idempotent; `not_found` if never there."""
        answer = await self._batcher.call(scripts.DELETE, job_keys(job), ())
        if answer[0] == "GONE":
            raise TailraceError("not_found")
        return answer[0] == "OK"


class _Once:
    """One batch, and its answer to be awaited."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()

    def next_batch(self) -> Batch | None:
        return None if self.answer.done() else self._batch

    def answered(self, answer: Appended | TailraceError) -> None:
        if self.answer.done():
            return  # the caller has gone; what was appended is appended
        if isinstance(answer, TailraceError):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


def _claim_args(
    token: str,
    worker: str,
    lease_ms: int,
    *,
    epoch: int | None = None,
    reason: str = "",
    usage: dict[str, int] | None = None,
    keep: int | None = None,
    counted_at: EventId | None = None,
    offered: int | None = None,
    upstream: Upstream | None = None,
) -> list[str | int]:
    """The claim script's arguments.

    `epoch`: the running epoch that is mine already (a new attempt of the same worker), with `reason` for the reset.
    `offered`: the epoch of the offer that this claim follows.
    `keep`, `counted_at`: with on_interrupt=continue or an upstream, the code points of the text that stays and the last
    id that they were counted at. `upstream`: where to go on from, if that is not where the log ends.
    """
    return [
        token,
        worker,
        fencing_chance(),
        lease_ms,
        "" if epoch is None else epoch,
        reason,
        "" if usage is None else _encode(usage).decode(),
        "" if keep is None else keep,
        "" if counted_at is None else str(counted_at),
        "" if offered is None else offered,
        "" if upstream is None else str(upstream),
    ]


def _standing(meta: list[str | None] | None, lease_ms: int | None) -> Standing | None:
    """None for what cannot be read: one damaged record must not keep the reaper from all others."""
    if meta is None or lease_ms is None:
        return None
    try:
        epoch, attempt, crashes, deadline_ms, priority, created_ms = (int(number or "") for number in meta[1:7])
        unread_ms, read_ms = (int(number or 0) for number in meta[7:])
        return Standing(
            max(0, lease_ms),
            Status(str(meta[0])),
            epoch,
            attempt,
            crashes,
            deadline_ms,
            priority,
            max(created_ms, read_ms) + unread_ms if unread_ms else None,
        )
    except ValueError:
        return None


def _record(job: JobKey, meta: dict[str, str]) -> JobRecord:
    def number(name: str) -> int | None:
        return int(meta[name]) if name in meta else None

    return JobRecord(
        key=job,
        request=msgspec.json.decode(meta["request"], type=JobRequest),
        status=Status(meta["status"]),
        created_ms=int(meta["created_ms"]),
        deadline_ms=int(meta["deadline_ms"]),
        epoch=int(meta["epoch"]),
        attempt=int(meta["attempt"]),
        crashes=int(meta["crashes"]),
        queue_ms=number("queue_ms"),
        ttft_ms=number("ttft_ms"),
        finished_ms=number("finished_ms"),
        expires_ms=number("expires_ms"),
        unread_ms=number("unread_ms"),
        usage=msgspec.json.decode(meta["usage"]),
        upstream=Upstream.parse(meta.get("upstream", "")),
        terminal=msgspec.json.decode(meta["terminal"]) if "terminal" in meta else {},
    )
