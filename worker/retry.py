"""What to do when a provider breaks: once more in silence, a new attempt that readers see, or the end. Pure."""

import random
from dataclasses import dataclass

from shared.errors import ProviderError
from shared.jobs import MAX_ATTEMPTS, OnInterrupt
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Again:
    """Call the provider again in the same attempt: nobody has seen anything yet."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Afresh:
    """A new attempt, with a `reset` in the log."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The job ends as failed with the error's code."""


def decide(
    error: ProviderError,
    *,
    shown: bool,
    tries: int,
    attempt: int,
    on_interrupt: OnInterrupt,
    settings: Settings,
    attached: bool = False,
) -> Again | Afresh | GiveUp:
    """`tries`: calls made in this attempt; `shown`: has any content of this attempt reached the log?

    `attached`: the provider keeps the generation, and a call reads on where the last one broke: nothing is said anew,
    so nobody sees it, and `on_interrupt` has nothing to decide.
    """
    if not error.retryable:
        return GiveUp()
    if error.retry_after_s is not None and error.retry_after_s > settings.retry_cap_s:
        return GiveUp()
    delay_s = backoff_s(attempt if shown and not attached else tries, settings)
    if error.retry_after_s is not None:
        # Never before the provider asked for, and not all at once after it.
        delay_s = error.retry_after_s + random.uniform(0, settings.retry_base_s)
    if attached and tries < settings.provider_tries:
        return Again(delay_s)
    if not shown:
        return Again(delay_s) if tries < settings.provider_tries else GiveUp()
    if (on_interrupt is OnInterrupt.FAIL and not attached) or attempt >= MAX_ATTEMPTS:
        return GiveUp()
    return Afresh(delay_s)


def backoff_s(tries: int, settings: Settings) -> float:
    """Full jitter: a chance fraction of a span that doubles with each try, up to the cap."""
    return random.uniform(0, min(settings.retry_cap_s, settings.retry_base_s * 2 ** (tries - 1)))
