"""The provider's side of one attempt: calls, time-outs, silent retries. What comes goes on to the log writer.

Time-outs, retries and the deadline are owned here, so that every provider is treated alike; the SDKs' own are off.
"""

import asyncio
import logging
from contextlib import aclosing

from shared.errors import CODES, ProviderError, TailraceError
from shared.events import Failed
from shared.jobs import Act, JobRecord
from shared.settings import Settings
from worker.attempt import Attempt
from worker.providers.base import Call, Provider
from worker.retry import Afresh, Again, decide
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
    """Runs one attempt's calls. `zero`: the event loop's time at which the job was created, in seconds."""

    def __init__(
        self,
        settings: Settings,
        providers: ProviderLookup,
        record: JobRecord,
        attempt: Attempt,
        writer: LogWriter,
        *,
        zero: float,
        text: str,
    ) -> None:
        self._settings = settings
        self._providers = providers
        self._record = record
        self._attempt = attempt
        self._writer = writer
        self._zero = zero
        self._text = text
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
                await self._stream()
                done = self._attempt.done(self._now_ms())
            except ProviderError as error:
                log.info("job %s: %s (%s)", self._record.key, error.code, error.detail)
                decision = self._decide(error, tries)
                if isinstance(decision, Afresh):
                    return decision
                await asyncio.sleep(decision.delay_s)
            else:
                self._writer.close(done, Act.DONE, self._attempt.usage)
                return None

    def _decide(self, error: ProviderError, tries: int) -> Again | Afresh:
        """What comes next; raises `error` where nothing does."""
        decision = decide(
            error,
            shown=self._attempt.shown,
            tries=tries,
            attempt=self._attempt.number,
            on_interrupt=self._record.request.on_interrupt,
            settings=self._settings,
        )
        if isinstance(decision, Again | Afresh):
            return decision
        raise error

    async def _stream(self) -> None:
        attempt, writer, loop = self._attempt, self._writer, self._loop
        between_s = self._settings.between_token_timeout_s
        attempt.begin_call()
        patience = asyncio.timeout(self._settings.first_token_timeout_s)
        try:
            provider = self._providers(self._record.request.provider)
            async with patience, aclosing(provider.stream(self._call())) as pieces:
                async for piece in pieces:
                    event = attempt.accept(piece, self._now_ms())
                    if event is None:
                        continue
                    patience.reschedule(loop.time() + between_s)
                    writer.add(event, attempt.ttft_ms)
                    if attempt.tokens % _BREATH <= 1:
                        # An SDK hands out what it has read without a pause: let the first token go, and others run.
                        await asyncio.sleep(0)
        except TimeoutError:
            if patience.expired():
                raise ProviderError("provider_timeout") from None
            raise
        for event in attempt.rest(self._now_ms()):
            writer.add(event, attempt.ttft_ms)

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
