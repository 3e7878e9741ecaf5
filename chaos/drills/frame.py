"""What a drill is: a promise, the rows of the reliability table it proves, and figures held against their bounds."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure. `reach` is written as the table writes it; `ok` says whether it was reached."""

    name: str
    reached: str
    reach: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Drill:
    """One drill. `rows`: the numbers of its promises in docs/reliability.md; `run` gets the count of repetitions."""

    name: str
    rows: tuple[int, ...]
    promise: str
    count: int
    run: Callable[[int], Awaitable[Sequence[Figure]]]


def at_most(name: str, value: float, bound: float, unit: str = "") -> Figure:
    """`value` is to be at most `bound`, both in `unit`."""
    return Figure(name, _with(value, unit), f"≤ {_with(bound, unit)}", value <= bound)


def at_least(name: str, value: float, bound: float, unit: str = "") -> Figure:
    """`value` is to be at least `bound`, both in `unit`: also for the counts that show that the faults did bite."""
    return Figure(name, _with(value, unit), f"≥ {_with(bound, unit)}", value >= bound)


def exactly(name: str, value: object, wanted: object) -> Figure:
    """`value` is to be `wanted`."""
    return Figure(name, str(value), str(wanted), value == wanted)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that `share` (0 … 1) of them do not exceed."""
    if not values:
        raise ValueError("no values: the drill measured nothing")
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def _with(value: float, unit: str) -> str:
    number = f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"
    return f"{number} {unit}".strip()
