"""Taking a job: the claim, the text that a continued answer goes on from, and ending what may not run again."""

import logging
from dataclasses import dataclass

from shared.events import Event
from shared.jobs import JobKey
from shared.storage.jobs import Claimed, JobStore, Refused
from shared.storage.log import EventLog
from shared.transcript import fold

log = logging.getLogger(__name__)

_ENDS_WITH = {
    "DEADLINE": "deadline_exceeded",
    "POISONED": "poisoned",
    "EXHAUSTED": "attempts_exhausted",
    "INTERRUPTED": "worker_lost",
}
_TEXT_TRIES = 3


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

    async def take(
        self, job: JobKey, *, epoch: int | None = None, reason: str = "", usage: dict[str, int] | None = None
    ) -> Taken | Refused:
        """Claim `job`; with `epoch`, as a new attempt of the one that runs here. StorageError as ever.

        A job that may not run again (deadline, poison, attempts, on_interrupt=fail) is ended here and now.
        """
        answer = await self._store.claim(job, self._worker, self._lease_ms, epoch=epoch, reason=reason, usage=usage)
        text = ""
        for _ in range(_TEXT_TRIES):
            if not (isinstance(answer, Refused) and answer.verdict == "NEED_TEXT"):
                break
            text = fold(await self._events(job)).text
            answer = await self._store.claim(
                job,
                self._worker,
                self._lease_ms,
                epoch=epoch,
                reason=reason,
                usage=usage,
                keep=len(text),
                counted_at=answer.last,
            )
        if isinstance(answer, Claimed):
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
