"""What every call to a provider passes: its circuit, the retry budget, and the counters of both."""

import logging
import random
from collections.abc import Callable
from types import TracebackType
from typing import Self

from shared import metrics
from shared.errors import ProviderError, TailraceError
from shared.settings import Settings
from worker.budget import RetryBudget
from worker.circuit import Circuits, Limits, Name, Passage
from worker.providers.base import StillWorkingError

log = logging.getLogger(__name__)

_SPEAK_OF_THE_PROVIDER = frozenset(
    {"provider_unavailable", "provider_timeout", "provider_interrupted", "provider_protocol"}
)
"""Codes that tell of an outage. A rate limit is none: who limits is there, and serves what was paid for."""
_ANSWERS = frozenset({"ok", "empty_output"})
_LOCAL = frozenset({"scripted"})
"""Calls nobody: there is nothing to protect, and it breaks only when its job asks for it."""


class CircuitOpenError(ProviderError):
    """The call was not made, for calls like it have failed. `wait_s`: when it may be otherwise at the earliest."""

    def __init__(self, name: Name, wait_s: float) -> None:
        provider, model = name
        when = f"in {max(1, round(wait_s))} s" if wait_s else "right now"
        super().__init__(
            "provider_unavailable",
            f"{provider} has failed too often with the model {model}: the circuit is open, so it was not called. "
            f"It is probed again {when}. Try again later.",
            detail="circuit open",
        )
        self.wait_s = wait_s


class CallOut:
    """One call, as a context: what happens in it is told to the circuit and counted."""

    def __init__(self, provider: str, passage: Passage) -> None:
        self._provider = provider
        self._passage = passage
        self._blames = provider not in _LOCAL
        self.answered = passage.answered
        """To be called when content comes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        outcome = "ok" if error is None else _outcome(error)
        speaks = outcome in _SPEAK_OF_THE_PROVIDER and not isinstance(error, StillWorkingError)
        if isinstance(error, ProviderError) and speaks and self._blames:
            self._passage.failed(error.retry_after_s)
        elif outcome in _ANSWERS:
            self._passage.answered()
        self._passage.released()
        metrics.PROVIDER_CALLS.labels(self._provider, outcome).inc()


class Gate:
    """The gate of one worker. `now`: a monotonic clock, s."""

    def __init__(
        self, settings: Settings, now: Callable[[], float], chance: Callable[[], float] = random.random
    ) -> None:
        self._settings = settings
        self._now = now
        limits = Limits(settings.circuit_failures, settings.circuit_open_s, settings.circuit_open_max_s)
        self._circuits = Circuits(limits, now, chance, _changed)
        self._budgets: dict[str, RetryBudget] = {}

    def enter(self, provider: str, model: str, *, retry: bool) -> CallOut:
        """Leave for one call. `retry`: it was granted before. CircuitOpenError where it may not be made."""
        name = (provider, model)
        wait_s = self._circuits.wait_s(name)
        if wait_s is not None:
            metrics.CIRCUIT_REFUSALS.labels(provider).inc()
            raise CircuitOpenError(name, wait_s)
        if not retry:
            self._budget(provider).called()
        return CallOut(provider, self._circuits.enter(name))

    def grants(self, provider: str, model: str, *, waits: bool) -> bool:
        """Whether a broken call may be repeated: the budget has some left, and its circuit has not opened or, with
        `waits`, is waited for."""
        if provider in _LOCAL:
            return True
        circuit = self._circuits.get((provider, model))
        granted = (waits or circuit is None or not circuit.open) and self._budget(provider).grant()
        metrics.PROVIDER_RETRIES.labels(provider, "granted" if granted else "denied").inc()
        return granted

    def _budget(self, provider: str) -> RetryBudget:
        settings = self._settings
        return self._budgets.setdefault(
            provider, RetryBudget(settings.retry_budget_percent, settings.retry_budget_floor, self._now)
        )


def _outcome(error: BaseException) -> str:
    """Our code; `stopped` for a call that was ended from outside: cancel, drain, deadline."""
    if isinstance(error, TailraceError):
        return error.code
    return "internal" if isinstance(error, Exception) else "stopped"


def _changed(name: Name, is_open: bool) -> None:
    provider, model = name
    label = metrics.model_label(provider, model)
    if is_open:
        log.warning("circuit of %s, model %s: open", provider, model)
        metrics.CIRCUIT_OPENINGS.labels(provider, label).inc()
        metrics.CIRCUITS_OPEN.labels(provider, label).inc()
    else:
        log.warning("circuit of %s, model %s: closed", provider, model)
        metrics.CIRCUITS_OPEN.labels(provider, label).dec()
