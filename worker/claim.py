"""Taking a job: the claim, the text that a continued answer goes on from, and ending what may not run again."""

import logging
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from shared import metrics
from shared.events import Event
from shared.jobs import JobKey, OnInterrupt, Upstream
from shared.storage.jobs import Claimed, JobStore, Refused, operation_token
from shared.storage.log import EventLog
from shared.transcript import Transcript, fold

log = logging.getLogger(__name__)

_ENDS_WITH = {
    "DEADLINE": "deadline_exceeded",
    "POISONED": "poisoned",
    "EXHAUSTED": "attempts_exhausted",
    "INTERRUPTED": "worker_lost",
    "LOGLESS": "log_lost",
}
PROVIDER_ERROR = "provider_error"
"""The reason of a reset where the provider broke and the same worker begins anew."""
_TEXT_TRIES = 3
_UNANSWERED_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that is this worker's now. `text`: what the readers keep, with on_interrupt=continue or an upstream.

    `upstream`: a generation that the provider keeps, to be read on from its position instead of beginning another.

    `retried`: a provider's failure here made this attempt necessary, and the retry budget has granted its first call.
    """

    claimed: Claimed
    text: str = ""
    upstream: Upstream | None = None
    retried: bool = False


class Claimer:
    """Claims for one worker."""

    def __init__(self, store: JobStore, event_log: EventLog, worker: str, lease_ms: int) -> None:
        self._store = store
        self._log = event_log
        self._worker = worker
        self._lease_ms = lease_ms
        self._unanswered: dict[tuple[JobKey, int | None], str] = {}
        """Claims whose answer never came: tried again, they are the same operation and cost no second attempt."""
        self._asking: set[tuple[JobKey, int | None]] = set()
        """Claims under way: the same offer by its other way is no repetition, or one job would be generated twice."""

    async def take(
        self,
        job: JobKey,
        *,
        epoch: int | None = None,
        reason: str = "",
        usage: dict[str, int] | None = None,
        offered: int | None = None,
    ) -> Taken | Refused:
        """Claim `job`; with `epoch`, as a new attempt of the one that runs here. StorageError as ever.

        A job that may not run again (deadline, poison, attempts, on_interrupt=fail) is ended here and now.
        """
        if (job, epoch) in self._asking:
            return Refused("BUSY")
        self._asking.add((job, epoch))
        try:
            return await self._take(job, epoch, reason, usage, offered)
        finally:
            self._asking.discard((job, epoch))

    async def _take(
        self, job: JobKey, epoch: int | None, reason: str, usage: dict[str, int] | None, offered: int | None
    ) -> Taken | Refused:
        while len(self._unanswered) >= _UNANSWERED_MAX:
            del self._unanswered[next(iter(self._unanswered))]
        token = self._unanswered.setdefault((job, epoch), operation_token())
        more: dict[str, Any] = {"epoch": epoch, "reason": reason, "usage": usage, "offered": offered}
        answer = await self._store.claim(job, self._worker, self._lease_ms, token=token, **more)
        text = None
        for _ in range(_TEXT_TRIES):
            if not (isinstance(answer, Refused) and answer.verdict == "NEED_TEXT"):
                break
            text, upstream = _kept(fold(await self._events(job)), answer.upstream)
            counted = {"keep": len(text), "counted_at": answer.last, "upstream": upstream}
            answer = await self._store.claim(job, self._worker, self._lease_ms, token=token, **more, **counted)
        self._unanswered.pop((job, epoch), None)
        metrics.CLAIMS.labels("OK" if isinstance(answer, Claimed) else answer.verdict).inc()
        if isinstance(answer, Claimed):
            if answer.record.ended or answer.record.epoch != answer.epoch:
                return Refused("STALE")  # the answer to an old try: the job has been somebody else's since
            if text is None:
                text = await self._kept_before(answer)
            return Taken(answer, text, answer.record.upstream, retried=reason == PROVIDER_ERROR)
        await self._end(job, answer, epoch)
        return answer

    async def _kept_before(self, claimed: Claimed) -> str:
        """The text that a claim kept whose answer was lost: the log says it. Nothing of this attempt is there yet."""
        record = claimed.record
        continues = record.request.on_interrupt is OnInterrupt.CONTINUE or record.upstream is not None
        return fold(await self._events(record.key)).text if continues and claimed.attempt > 1 else ""

    async def _events(self, job: JobKey) -> list[Event]:
        return [entry.event for entry in await self._log.read_all(job)]

    async def _end(self, job: JobKey, refused: Refused, mine: int | None) -> None:
        code = _ENDS_WITH.get(refused.verdict)
        if code is not None:
            log.warning("job %s: %s", job, code)
            await self._store.fail(job, code, epoch=refused.epoch, unleased=mine is None)


def _kept(shown: Transcript, upstream: Upstream | None) -> tuple[str, Upstream | None]:
    """The text that stays, and where to read on if that is not where the log ends.

    A reset drops reasoning and tool calls: an answer that has some is read again from where its generation began.
    """
    if upstream is not None and (shown.reasoning or shown.tool_calls):
        return shown.text[: upstream.base], replace(upstream, position=-1)
    return shown.text, None
