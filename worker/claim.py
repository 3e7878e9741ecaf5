"""Taking a job: the claim, the text that a continued answer goes on from, and ending what may not run again."""

import logging
from dataclasses import dataclass
from typing import Any

from shared.events import Event
from shared.jobs import JobKey
from shared.storage.jobs import Claimed, JobStore, Refused, operation_token
from shared.storage.log import EventLog
from shared.transcript import fold

log = logging.getLogger(__name__)

_ENDS_WITH = {
    "DEADLINE": "deadline_exceeded",
    "POISONED": "poisoned",
    "EXHAUSTED": "attempts_exhausted",
    "INTERRUPTED": "worker_lost",
    "LOGLESS": "log_lost",
}
_TEXT_TRIES = 3
_UNANSWERED_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that is this worker's now. `text`: what the readers keep, with on_interrupt=continue."""

    claimed: Claimed
    text: str = ""


class Claimer:
    """Claims for one worker."""

    def __init__(self, store: JobStore, event_log: EventLog, worker: str, lease_ms: int) -> None:
        self._store = store
        self._log = event_log
        self._worker = worker
        self._lease_ms = lease_ms
        self._unanswered: dict[tuple[JobKey, int | None], str] = {}
        """Claims whose answer never came: tried again, they are the same operation and cost no second attempt."""

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
        while len(self._unanswered) >= _UNANSWERED_MAX:
            del self._unanswered[next(iter(self._unanswered))]
        token = self._unanswered.setdefault((job, epoch), operation_token())
        more: dict[str, Any] = {"epoch": epoch, "reason": reason, "usage": usage, "offered": offered}
        answer = await self._store.claim(job, self._worker, self._lease_ms, token=token, **more)
        text = ""
        for _ in range(_TEXT_TRIES):
            if not (isinstance(answer, Refused) and answer.verdict == "NEED_TEXT"):
                break
            text = fold(await self._events(job)).text
            counted = {"keep": len(text), "counted_at": answer.last}
            answer = await self._store.claim(job, self._worker, self._lease_ms, token=token, **more, **counted)
        self._unanswered.pop((job, epoch), None)
        if isinstance(answer, Claimed):
            if answer.record.ended or answer.record.epoch != answer.epoch:
                return Refused("STALE")  # the answer to an old try: the job has been somebody else's since
            return Taken(answer, text)
        await self._end(job, answer, epoch)
        return answer

    async def _events(self, job: JobKey) -> list[Event]:
        return [entry.event for entry in await self._log.read_all(job)]

    async def _end(self, job: JobKey, refused: Refused, mine: int | None) -> None:
        code = _ENDS_WITH.get(refused.verdict)
        if code is not None:
            log.warning("job %s: %s", job, code)
            await self._store.fail(job, code, epoch=refused.epoch, unleased=mine is None)
