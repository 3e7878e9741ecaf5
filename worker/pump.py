"""The provider's side of one attempt: calls, time-outs, silent retries. What comes goes on to the log writer.

Time-outs, retries and the deadline are owned here, so that every provider is treated alike; the SDKs' own are off.
"""

import asyncio
import logging
import math
import random

from msgspec.structs import replace

from shared.errors import CODES, ProviderError, TailraceError
from shared.events import Failed
from shared.jobs import Act, JobRecord, Upstream
from shared.settings import Settings
from worker.attempt import Attempt
from worker.gate import CallOut, CircuitOpenError, Gate
from worker.providers.base import Call, Finish, Piece, Provider, StillWorkingError, UpstreamLostError, pour
from worker.retry import Afresh, Again, GiveUp, decide
from worker.writer import LogWriter

log = logging.getLogger(__name__)

_BREATH = 16
"""Events of one answer between two turns of the event loop."""


class ProviderLookup:
    """Provider by name. Raises ProviderError for one that this worker cannot offer."""

    def __init__(self, providers: dict[str, Provider]) -> None:
        self._providers = providers

    def __call__(self, name: str) -> Provider:
        """The provider called `name`."""
        try:
            return self._providers[name]
        except KeyError:
            raise ProviderError("provider_not_configured", f"No worker offers the provider {name!r}.") from None


class Pump:
    """Runs one attempt's calls. `zero`: the event loop's time at which the job was created, in seconds.

    `retried`: the attempt before broke at the provider, so that this one's first call was granted as a retry.
    `upstream`: the generation that is read on, `text` being what readers keep of it.
    """

    def __init__(
        self,
        settings: Settings,
        providers: ProviderLookup,
        record: JobRecord,
        attempt: Attempt,
        writer: LogWriter,
        *,
        gate: Gate,
        zero: float,
        text: str,
        retried: bool,
        upstream: Upstream | None,
    ) -> None:
        self._settings = settings
        self._providers = providers
        self._record = record
        self._attempt = attempt
        self._writer = writer
        self._gate = gate
        self._retried = retried
        self._zero = zero
        self._text = text
        self.upstream = upstream
        """The generation that goes on at the provider although nobody reads it; None: there is none."""
        self._base = len(text) if upstream is None else upstream.base
        self._shown_before = upstream is not None and record.ttft_ms is not None
        self._came_on = False
        self._loop = asyncio.get_running_loop()

    def _now_ms(self) -> int:
        return round((self._loop.time() - self._zero) * 1000)

    async def run(self) -> Afresh | None:
        """Until the writer has got the attempt's end (None), or until a new attempt is due."""
        deadline_s = (self._record.deadline_ms - self._record.created_ms) / 1000
        try:
            async with asyncio.timeout_at(self._zero + deadline_s):
                return await self._tries()
        except TimeoutError:
            self._fail(TailraceError("deadline_exceeded"))
        except TailraceError as error:
            self._fail(error)
        except Exception:
            log.exception("job %s: a provider adapter broke", self._record.key)
            self._fail(TailraceError("internal"))
        return None

    async def _tries(self) -> Afresh | None:
        tries = 0
        while True:
            tries += 1
            try:
                with await self._enter(retry=self._retried or tries > 1 or self.upstream is not None) as call:
                    await self._stream(call)
                    done = self._attempt.done(self._now_ms())
            except ProviderError as error:
                log.info("job %s: %s (%s)", self._record.key, error.code, error.detail)
                if isinstance(error, UpstreamLostError):
                    self.upstream = None
                    self._writer.mark(None)
                elif self.upstream is not None and (self._came_on or isinstance(error, StillWorkingError)):
                    tries = 1  # a long answer may see many connections break; what counts is one that brings nothing
                decision = self._decide(error, tries)
                if decision is None:
                    raise
                if isinstance(decision, Afresh):
                    return decision
                await asyncio.sleep(decision.delay_s)
            else:
                self._writer.close(done, Act.DONE, self._attempt.usage)
                return None

    def _decide(self, error: ProviderError, tries: int) -> Again | Afresh | None:
        """What comes next; None where nothing does."""
        decision = decide(
            error,
            shown=self._attempt.shown or self._shown_before,
            attached=self.upstream is not None,
            tries=tries,
            attempt=self._attempt.number,
            on_interrupt=self._record.request.on_interrupt,
            settings=self._settings,
        )
        request = self._record.request
        if isinstance(error, CircuitOpenError) or isinstance(decision, GiveUp):
            return None
        if self.upstream is not None:
            return decision  # it costs no generation; the circuit is obeyed all the same
        if not self._gate.grants(request.provider, request.model, waits=isinstance(decision, Afresh)):
            log.info("job %s: no further call to %s", self._record.key, request.provider)
            return None
        return decision

    async def _enter(self, *, retry: bool) -> CallOut:
        """Leave to call. An open circuit ends the job at once, unless readers have seen content of it: then it may wait
        for the probe, for as long as for a retry. One whose answer the provider keeps waits until its deadline."""
        request = self._record.request
        patience_s = 0.0 if self._record.ttft_ms is None else self._settings.retry_cap_s
        until = self._loop.time() + (patience_s if self.upstream is None else math.inf)
        while True:
            try:
                return self._gate.enter(request.provider, request.model, retry=retry)
            except CircuitOpenError as error:
                wait_s = error.wait_s + random.uniform(0, self._settings.retry_base_s)
                if self._loop.time() + wait_s > until:
                    raise
            await asyncio.sleep(wait_s)

    async def _stream(self, call: CallOut) -> None:
        attempt, writer = self._attempt, self._writer
        attempt.begin_call()
        self._came_on = False
        patience = asyncio.timeout(self._settings.first_token_timeout_s)
        try:
            provider = self._providers(self._record.request.provider)
            async with patience:
                # Not partial: what others hold of it is to be empty once `patience` is deleted.
                await pour(provider, self._call(), lambda piece: self._take(piece, call, patience))  # noqa: F821
        except TimeoutError:
            if patience.expired():
                raise ProviderError("provider_timeout") if self.upstream is None else StillWorkingError from None
            raise
        finally:
            del patience  # it knows the task, which keeps what it was cancelled with, and so this frame: a circle
        for event in attempt.rest(self._now_ms()):
            writer.add(event, attempt.ttft_ms)

    def _take(self, piece: Piece, call: CallOut, patience: asyncio.Timeout) -> bool:
        """Take one piece in. Whether to pause behind it: never between an event and the upstream that covers it."""
        attempt, settings = self._attempt, self._settings
        if isinstance(piece, Upstream):
            if self.upstream is None or piece.position > self.upstream.position:  # a sign of life
                wait_s = settings.between_token_timeout_s if attempt.shown else settings.first_token_timeout_s
                patience.reschedule(self._loop.time() + wait_s)
            self.upstream = replace(piece, base=self._base)
            self._writer.mark(self.upstream)
            return attempt.tokens % _BREATH <= 1
        event = attempt.accept(piece, self._now_ms())
        if event is None:
            if isinstance(piece, Finish):
                self.upstream = None  # nothing goes on there any more
            return False
        call.answered()
        self._prolong(patience, settings.between_token_timeout_s)
        self._writer.add(event, attempt.ttft_ms)
        self._came_on = True
        return self.upstream is None and attempt.tokens % _BREATH <= 1

    def _prolong(self, patience: asyncio.Timeout, by_s: float) -> None:
        """Wait so long again, to one part in a hundred: a timer for each token would cost as much as reading it."""
        until, set_for = self._loop.time() + by_s, patience.when()
        if set_for is None or not 0 <= until - set_for < by_s / 100:
            patience.reschedule(until)

    def _call(self) -> Call:
        request = self._record.request
        return Call(
            job_id=self._record.key.id,
            model=request.model,
            messages=request.messages,
            attempt=self._attempt.number,
            system=request.system,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            params=request.params,
            continue_text=self._text,
            upstream=self.upstream,
            tenant=self._record.key.tenant,
        )

    def _fail(self, error: TailraceError) -> None:
        at_ms, attempt = self._now_ms(), self._attempt
        failed = Failed(
            error.code,
            error.message,
            CODES[error.code].retryable,
            attempt.number,
            attempt.timings(at_ms),
            attempt.usage,
            at_ms,
        )
        self._writer.close(failed, Act.FAILED, attempt.usage)
