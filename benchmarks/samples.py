"""What was measured, as values: samples, and the median and range of a ratio that was taken round by round."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sample:
    """What one system showed in one round of one question. `figures`: name (with its unit) → value.

    `faults`: what may not be at any speed: a gap, a duplicate, an error, a stream that did not end.
    """

    question: str
    system: str
    round: int
    figures: dict[str, float]
    faults: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Turn:
    """A system's turn in a round, and the seconds that it took, with its start where it had to be started."""

    system: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range over rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """None where there is no value."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1]) if ordered else None


def figures(samples: list[Sample], question: str, system: str, name: str) -> dict[int, float]:
    """Round → figure, of the rounds that have it."""
    return {
        sample.round: sample.figures[name]
        for sample in samples
        if (sample.question, sample.system) == (question, system) and name in sample.figures
    }


def percentiles_ms(values: list[float], prefix: str = "") -> dict[str, float]:
    """p50, p99 and maximum of milliseconds (nearest rank), as figures."""
    ordered = sorted(values)
    ranks = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        f"{prefix}{name}_ms": ordered[min(len(ordered) - 1, int(len(ordered) * rank))] for name, rank in ranks.items()
    }
