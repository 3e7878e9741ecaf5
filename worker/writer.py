"""The append pipeline of one job: the provider never waits for the store, and the store's verdicts are obeyed.

Events that come while an append is under way go out together in the next one, so batches grow with load and the first
token never waits. All events of the attempt are kept: after a failover that lost the log's tail they are appended
again, same ids, same bytes (GAP); if it lost the claim, under a new epoch (STALE).
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Literal

from shared import metrics
from shared.errors import StorageError
from shared.events import Event
from shared.jobs import Act, JobKey, Upstream
from shared.storage.jobs import Appended, Claimed, JobStore
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
    """Writes one attempt's events. `add` and `close` never wait; `run` does the work and says how it ended."""

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
        self._reclaim = reclaim
        self._patience_s = patience_s
        self._events: list[Event] = []
        self._marks = Marks()
        self._ttft_ms: int | None = None
        self._closing: tuple[Event, Act, dict[str, int]] | None = None
        self._wanted = asyncio.Event()
        self._flushed = asyncio.Event()
        self._flushed.set()
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
        self._flushed.clear()
        self._wanted.set()

    def mark(self, upstream: Upstream | None) -> None:
        """What was added so far is covered by `upstream`, which the store gets with it; None: it is lost."""
        self._marks.set(len(self._events), upstream)
        if self._marks.due:
            self._flushed.clear()
            self._wanted.set()

    def close(self, terminal: Event, act: Act, usage: dict[str, int]) -> None:
        """Append the rest and the terminal event, then end."""
        self._closing = (terminal, act, usage)
        self._flushed.clear()
        self._wanted.set()

    async def flush(self) -> None:
        """Return once everything added so far is in the log."""
        await self._flushed.wait()

    async def run(self) -> Ending:
        """Append until closed or fenced, or until the store has been of no use for `patience_s`."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._acked < len(self._events) or self._closing is not None or self._marks.due:
                ending = await self._step()
                if ending is not None:
                    return ending
            self._flushed.set()

    async def _step(self) -> Ending | None:
        end = min(self._acked + MAX_BATCH, len(self._events))
        last = self._closing is not None and end == len(self._events)
        upstream: Upstream | Literal["", "-"] = ""
        if not last:
            end, upstream = self._marks.cut(self._acked, end)
        batch = self._events[self._acked : end]
        try:
            answer = await self._send(batch, last, upstream)
            if answer.verdict == "OK":
                self._marks.noted(upstream)
            ending = await self._obey(answer, len(batch), last)
        except StorageError as error:
            return await self._wait_for_store(error)
        self._failing_since = None
        return ending

    async def _send(self, batch: list[Event], last: bool, upstream: Upstream | Literal["", "-"]) -> Appended:
        first_seq = self._base_seq + self._acked
        ttft_ms = None if self._ttft_noted else self._ttft_ms
        if last and self._closing is not None:
            terminal, act, usage = self._closing
            return await self._store.finish(
                self._job, self.epoch, first_seq, [*batch, terminal], act=act, usage=usage, ttft_ms=ttft_ms
            )
        return await self._store.append(self._job, self.epoch, first_seq, batch, ttft_ms, upstream)

    async def _obey(self, answer: Appended, count: int, last: bool) -> Ending | None:
        # More came before a batch was repeated whose answer was lost: the log has a part of it, and lost nothing.
        grown = answer.verdict == "GAP" and answer.last_seq >= self._base_seq + self._acked
        (_OK if grown or answer.verdict == "OK" else metrics.APPENDS.labels(answer.verdict)).inc()
        if answer.verdict == "OK":
            self._acked += count
            if count:  # content that came meanwhile was not in an empty batch
                self._ttft_noted = self._ttft_ms is not None
            return Ending.WRITTEN if last else None
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
