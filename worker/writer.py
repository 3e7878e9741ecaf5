"""The append pipeline of one job: the provider never waits for the store, and the store's verdicts are obeyed.

Events that come while an append is under way go out together in the next one, so batches grow with load and the first
token never waits. As long as the store takes them, no task has a turn for that: `Appends` asks for a batch when it can
send it, and hands back the answer. The task is for the end, and for what is not as usual.

All events of the attempt are kept: after a failover that lost the log's tail they are appended again, same ids, same
bytes (GAP); if it lost the claim, under a new epoch (STALE).
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Literal

from shared import metrics
from shared.errors import StorageError, TailraceError
from shared.events import Event
from shared.jobs import Act, JobKey, Upstream
from shared.storage.appends import Appended, Batch
from shared.storage.jobs import Claimed, JobStore
from shared.storage.keys import job_keys
from worker.marks import Marks

log = logging.getLogger(__name__)

MAX_BATCH = 256
_OK = metrics.APPENDS.labels("OK")


class Ending(Enum):
    """How a writer ended."""

    WRITTEN = "written"
    FENCED = "fenced"
    """Somebody else ended or took the job, or it is gone: nothing more of ours belongs into the log."""
    STORE_LOST = "store_lost"
    """The store stayed away for longer than a generation may go on without it."""
    STORE_FULL = "store_full"
    """The store stayed without memory for so long."""


class LogWriter:
    """Writes one attempt's events. `add` and `close` never wait; `run` sees to it and says how it ended."""

    def __init__(
        self,
        store: JobStore,
        job: JobKey,
        claimed: Claimed,
        *,
        reclaim: Callable[[], Awaitable[Claimed | None]],
        patience_s: float,
    ) -> None:
        self._store = store
        self._job = job
        self._keys = job_keys(job)
        self._reclaim = reclaim
        self._patience_s = patience_s
        self._events: list[Event] = []
        self._marks = Marks()
        self._ttft_ms: int | None = None
        self._closing: tuple[Event, Act, dict[str, int]] | None = None
        self._busy = True
        """A batch was asked for and not yet answered, or the task is at work; before and after `run`, too."""
        self._ended = False
        self._sent: tuple[int, Upstream | Literal["", "-"]] = (0, "")
        """How many events the batch under way has, and which upstream."""
        self._unusual: Appended | TailraceError | None = None
        """An answer that the task has to see to."""
        self._turn = asyncio.Event()
        self._answered = asyncio.Event()
        self._failing_since: float | None = None
        self._begin(claimed)

    def _begin(self, claimed: Claimed) -> None:
        self.epoch = claimed.epoch
        self._base_seq = claimed.seq + 1
        self._acked = 0
        self._ttft_noted = False

    def add(self, event: Event, ttft_ms: int | None) -> None:
        """Take an event to be appended as soon as possible; `ttft_ms`: when readers first saw content of this job."""
        self._events.append(event)
        self._ttft_ms = ttft_ms
        if not self._busy:
            self._ask()

    def mark(self, upstream: Upstream | None) -> None:
        """What was added so far is covered by `upstream`, which the store gets with it; None: it is lost."""
        self._marks.set(len(self._events), upstream)
        if not self._busy:
            self._go_on()

    def close(self, terminal: Event, act: Act, usage: dict[str, int]) -> None:
        """Append the rest and the terminal event, then end."""
        self._closing = (terminal, act, usage)
        if not self._busy:
            self._go_on()

    async def flush(self) -> None:
        """Return once everything added so far is in the log."""
        while self._owes:
            self._answered.clear()
            await self._answered.wait()

    async def run(self) -> Ending:
        """See to it until closed or fenced, or until the store has been of no use for `patience_s`."""
        ending = None
        try:
            while ending is None:
                self._go_on()
                await self._turn.wait()
                self._turn.clear()
                ending = await self._step()
            return ending
        finally:
            self._ended = self._busy = True
            del self._reclaim  # its owner holds this: in a circle, the job's text would wait for a full collection

    @property
    def _owes(self) -> bool:
        return self._acked < len(self._events) or self._closing is not None or self._marks.due

    @property
    def _ends_now(self) -> bool:
        return self._closing is not None and len(self._events) - self._acked <= MAX_BATCH

    def _go_on(self) -> None:
        """Have what there is appended, or the task write the end."""
        if not self._owes:
            self._busy = False
        elif self._ends_now:
            self._busy = True
            self._turn.set()
        else:
            self._ask()

    def _ask(self) -> None:
        self._busy = True
        self._store.append_from(self)

    def next_batch(self) -> Batch | None:
        """For `Appends`: what goes out now. None where the end was added meanwhile, which the task writes, or where
        nothing of ours may go out any more."""
        if self._ended:
            return None
        if self._ends_now:
            self._turn.set()
            return None
        end, upstream = self._marks.cut(self._acked, min(self._acked + MAX_BATCH, len(self._events)))
        self._sent = (end - self._acked, upstream)
        ttft_ms = None if self._ttft_noted else self._ttft_ms
        first_seq = self._base_seq + self._acked
        return Batch(self._keys, self.epoch, first_seq, self._events[self._acked : end], ttft_ms, upstream)

    def answered(self, answer: Appended | TailraceError) -> None:
        """For `Appends`: what became of the batch."""
        if isinstance(answer, Appended) and answer.verdict == "OK" and not self._ended:
            self._took(*self._sent)
            self._go_on()
        else:
            self._unusual = answer
            self._turn.set()

    def _took(self, count: int, upstream: Upstream | Literal["", "-"]) -> None:
        """The store has so many events more."""
        _OK.inc()
        self._failing_since = None
        self._acked += count
        if count:  # content that came meanwhile was not in an empty batch
            self._ttft_noted = self._ttft_ms is not None
        if upstream:
            self._marks.noted(upstream)
        self._answered.set()

    async def _step(self) -> Ending | None:
        answer, self._unusual = self._unusual, None
        try:
            if isinstance(answer, TailraceError):
                raise answer
            ending = await (self._end() if answer is None else self._obey(answer))
        except StorageError as error:
            return await self._wait_for_store(error)
        self._failing_since = None
        return ending

    async def _end(self) -> Ending | None:
        assert self._closing is not None, "the task has its turn for an answer or for the end"
        terminal, act, usage = self._closing
        rest = self._events[self._acked :]
        answer = await self._store.finish(
            self._job,
            self.epoch,
            self._base_seq + self._acked,
            [*rest, terminal],
            act=act,
            usage=usage,
            ttft_ms=None if self._ttft_noted else self._ttft_ms,
        )
        if answer.verdict != "OK":
            return await self._obey(answer)
        self._took(len(rest), "")
        return Ending.WRITTEN

    async def _obey(self, answer: Appended) -> Ending | None:
        """What a verdict other than OK asks for."""
        # More came before a batch was repeated whose answer was lost: the log has a part of it, and lost nothing.
        grown = answer.verdict == "GAP" and answer.last_seq >= self._base_seq + self._acked
        (_OK if grown else metrics.APPENDS.labels(answer.verdict)).inc()
        if answer.verdict == "GAP":
            if not grown:
                log.warning("job %s: the log lost its tail after seq %d; repeating it", self._job, answer.last_seq)
            self._acked = max(0, answer.last_seq + 1 - self._base_seq)
            self._ttft_noted = False
            return None
        if answer.verdict == "STALE":
            claimed = await self._reclaim()
            if claimed is not None:
                log.warning("job %s: the log lost our claim; going on in epoch %d", self._job, claimed.epoch)
                self._begin(claimed)
                return None
        log.info("job %s: %s in epoch %d; stopping", self._job, answer.verdict, self.epoch)
        return Ending.FENCED

    async def _wait_for_store(self, error: StorageError) -> Ending | None:
        metrics.APPEND_ERRORS.labels(error.code).inc()
        now = asyncio.get_running_loop().time()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since > self._patience_s:
            return Ending.STORE_FULL if error.code == "storage_full" else Ending.STORE_LOST
        await asyncio.sleep(random.uniform(0.02, 0.25))
        return None
