"""One job's generation, from its claim to its end in this worker: a pump and a writer for each attempt.

Who may end it: the pump (the answer is whole, or has failed), the writer (somebody else owns the log now, or the store
is gone), or a stop from outside (cancel, lost lease, drain). Whatever comes first, the provider's connection is closed.
"""

import asyncio
import logging
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from msgspec.structs import replace as replace_struct

from shared import metrics
from shared.errors import ProviderError, StorageError
from shared.jobs import JobKey, Status, Upstream
from shared.queue import Queue
from shared.settings import Settings
from shared.spending import tokens_in
from shared.storage.jobs import Claimed, JobStore, Refused
from worker.attempt import Attempt
from worker.claim import PROVIDER_ERROR, Claimer, Taken
from worker.gate import Gate
from worker.providers.base import Cancels
from worker.pump import ProviderLookup, Pump
from worker.retry import Afresh
from worker.writer import Ending, LogWriter

log = logging.getLogger(__name__)

_FLUSH_GUARD_S = 2.0
_CANCEL_GUARD_S = 5.0


class Stop(Enum):
    """Why a generation is to stop before its end."""

    FENCED = "fenced"
    """The job was ended or taken by somebody else: write nothing more."""
    DRAIN = "drain"
    """This worker is going away: hand the job over."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every generation of a worker shares."""

    settings: Settings
    store: JobStore
    queue: Queue
    claimer: Claimer
    providers: ProviderLookup
    gate: Gate
    worker: str


class Generation:
    """A job that this worker holds. `run` returns when the job is no longer this worker's."""

    def __init__(self, tools: Tools, job: JobKey, taken: Taken) -> None:
        self._tools = tools
        self._taken = taken
        self._stop: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        self.job = job
        self.epoch = taken.claimed.epoch
        """The epoch whose lease this worker renews."""
        self.tokens = 0
        """Used so far, all attempts together."""
        self.written = False
        """Its end stands in the log, written by this worker."""
        self.claiming = False
        """A claim of ours may have been carried out whose answer is not here yet."""

    def stop(self, why: Stop) -> None:
        """Ask it to stop; the provider's connection is closed at once (tokens cost money)."""
        if not self._stop.done():
            self._stop.set_result(why)

    async def run(self) -> None:
        """Generate until the job has ended, is handed over, or is somebody else's."""
        taken: Taken | None = self._taken
        while taken is not None:
            self.epoch, self.claiming = taken.claimed.epoch, False
            async with asyncio.TaskGroup() as group:
                run = _Run(self._tools, self, taken, group)
                try:
                    taken = await run.attempt(self._stop)
                finally:
                    self.tokens = max(self.tokens, run.tokens)
            if taken is None and run.upstream is not None:
                await self._let_go(run.upstream, run.provider)

    async def _let_go(self, upstream: Upstream, name: str) -> None:
        """Tokens cost money, and this generation goes on without us: end it with its job.

        Where the job has only moved, to a successor or back into the queue, whoever takes it reads on.
        """
        record = (await self._tools.store.show_many([self.job]))[0]
        if record is not None and (not record.ended or record.status is Status.DONE):
            return
        try:
            provider = self._tools.providers(name)
            if isinstance(provider, Cancels):
                async with asyncio.timeout(_CANCEL_GUARD_S):
                    await provider.cancel(upstream, self.job.tenant)
                log.info("job %s: its generation is cancelled at the provider", self.job)
        except (ProviderError, TimeoutError) as error:
            log.warning("job %s: its generation may go on at the provider: %s", self.job, error)


class _Run:
    """One attempt in flight."""

    def __init__(self, tools: Tools, generation: Generation, taken: Taken, group: asyncio.TaskGroup) -> None:
        self._tools = tools
        self._generation = generation
        self._taken = taken
        self._retaken: Taken | None = None
        self._job = generation.job
        record = taken.claimed.record
        self._priority = record.request.priority
        self._attempt = Attempt(
            taken.claimed.attempt,
            usage_before=record.usage,
            ttft_ms=record.ttft_ms,
            queue_ms=record.queue_ms or 0,
            max_bytes=tools.settings.max_output_bytes,
            continues=bool(taken.text),
        )
        self._writer = LogWriter(
            tools.store,
            self._job,
            taken.claimed,
            reclaim=self._reclaim,
            patience_s=tools.settings.storage_patience_s,
        )
        zero = asyncio.get_running_loop().time() - taken.claimed.at_ms / 1000
        self._pump = Pump(
            tools.settings,
            tools.providers,
            record,
            self._attempt,
            self._writer,
            gate=tools.gate,
            zero=zero,
            text=taken.text,
            retried=taken.retried,
            upstream=taken.upstream,
        )
        self._writing = group.create_task(self._writer.run())
        self._pumping = group.create_task(self._pump.run())

    @property
    def upstream(self) -> Upstream | None:
        """What goes on at the provider when nobody reads it."""
        return self._pump.upstream

    @property
    def tokens(self) -> int:
        """Used so far; of an attempt that was cut short at least those that it has shown."""
        before = tokens_in(self._taken.claimed.record.usage)
        return max(tokens_in(self._attempt.usage), before + self._attempt.tokens)

    @property
    def provider(self) -> str:
        """The provider's name."""
        return self._taken.claimed.record.request.provider

    async def attempt(self, stop: asyncio.Future[Stop]) -> Taken | None:
        """Run it. The next attempt where this one broke off and may start anew, else None."""
        try:
            await _first(self._writing, self._pumping, stop)
            afresh = self._pumping.result() if self._pumping.done() else None
            if afresh is not None:
                await self._flush(stop)
                await _first(self._writing, stop, timeout_s=afresh.delay_s)
            elif self._pumping.done():
                await _first(self._writing, stop)
            return await self._next(afresh, stop)
        finally:
            self._pumping.cancel()
            self._writing.cancel()

    async def _next(self, afresh: Afresh | None, stop: asyncio.Future[Stop]) -> Taken | None:
        if self._retaken is not None:
            return self._retaken
        if self._writing.done():
            self._generation.written = self._writing.result() is Ending.WRITTEN
            if self._writing.result() is Ending.STORE_FULL:
                await self._tools.store.fail(self._job, "storage_full", epoch=self._writer.epoch)
            return None
        if stop.done():
            if stop.result() is Stop.DRAIN:
                await self._hand_over()
            return None
        return await self._claim_next() if afresh is not None else None

    async def _flush(self, *or_else: asyncio.Future[Any], timeout_s: float | None = None) -> None:
        """Wait until what was generated is in the log, or something else makes that pointless."""
        flushing = asyncio.create_task(self._writer.flush())
        try:
            await _first(flushing, self._writing, *or_else, timeout_s=timeout_s)
        finally:
            flushing.cancel()

    async def _reclaim(self) -> Claimed | None:
        """A failover lost our claim: take the job again and go on with the same provider stream, if it still fits."""
        self._generation.claiming = True
        try:
            taken = await self._tools.claimer.take(
                self._job, epoch=self._writer.epoch, reason="storage_failover", usage=self._attempt.usage
            )
            if isinstance(taken, Refused):
                return None
            self._generation.epoch = taken.claimed.epoch
        finally:
            self._generation.claiming = False
        before = self._taken.upstream
        if before is None and taken.upstream is None and taken.text == self._taken.text:
            return taken.claimed
        # The text that this attempt goes on from is not what the log has now: go on from what it has.
        if before is not None and taken.upstream is None:
            mine = replace_struct(self._pump.upstream or before, position=-1, base=len(taken.text))
            taken = replace(taken, upstream=mine)
        self._retaken = taken
        return None

    async def _claim_next(self) -> Taken | None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._tools.settings.storage_patience_s
        self._writing.cancel()
        self._generation.claiming = True
        while True:
            try:
                taken = await self._tools.claimer.take(
                    self._job, epoch=self._writer.epoch, reason=PROVIDER_ERROR, usage=self._attempt.usage
                )
            except StorageError:
                if loop.time() > give_up:
                    raise
                await asyncio.sleep(0.2)
            else:
                return taken if isinstance(taken, Taken) else None

    async def _hand_over(self) -> None:
        """Give an unfinished job to another worker, with everything in the log that was generated."""
        self._pumping.cancel()
        await self._flush(timeout_s=_FLUSH_GUARD_S)
        self._writing.cancel()
        epoch = self._writer.epoch
        if await self._tools.store.release(self._job, self._tools.worker, epoch, self._attempt.usage):
            await self._tools.queue.offer(self._job, epoch=epoch, priority=self._priority)
            metrics.HANDED_OVER.inc()
            log.info("job %s: handed over", self._job)


async def _first(*futures: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    """Wait for whichever comes first."""
    await asyncio.wait(set(futures), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
