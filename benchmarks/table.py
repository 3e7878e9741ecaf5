"""The table that `make bench` prints: targets with the figures reached, and each system's own figures below."""

from collections.abc import Iterable

from benchmarks.samples import Sample, Spread, figures
from benchmarks.targets import OURS, Judged, Target

FOREIGN_CORES = 0.2
"""Above this a table says so: ratios bear it, lags and rates do not."""
MUCH_STEAL = 0.1
"""A round from which the host took a larger share of the cores is named below the table."""


def targets_table(rows: list[Judged], samples: list[Sample]) -> str:
    """measure | ours | baseline | ratio (median, range) | target | ok | steal: what the host took of our turns."""
    head = ("measure", "ours", "baseline", "ratio (range)", "target", "ok", "steal")
    table = markdown([head, *((*_cells(row), _stolen(row.target, samples)) for row in rows)])
    limits = [f"{row.target.measure}: {row.target.exception.because}" for row in rows if row.target.exception]
    return "\n".join([table, *(f"exception: {limit}" for limit in limits)])


def _stolen(target: Target, samples: list[Sample]) -> str:
    shares = figures(samples, target.question, OURS, "steal").values()
    spread = Spread.of(share * 100 for share in shares)
    return "–" if spread is None else f"{spread.median:.0f} ({spread.low:.0f}–{spread.high:.0f}) %"


def steal(samples: list[Sample]) -> str:
    """How much of the cores the host took, and what that means for the figures."""
    spread = Spread.of(sample.figures["steal"] * 100 for sample in samples if "steal" in sample.figures)
    if spread is None:
        return "steal: unknown"
    much = sorted({(s.question, s.round + 1) for s in samples if s.figures.get("steal", 0) > MUCH_STEAL})
    rounds = ", ".join(f"{question} {number}" for question, number in much)
    return (
        f"steal: the host took {spread.median:.1f} ({spread.low:.1f}–{spread.high:.1f}) % of the cores' time of a turn."
        " It falls on both sides of a ratio; rates and times by the clock (tok/s, ms) it makes worse than they are."
        + (f" More than {MUCH_STEAL:.0%} in the rounds: {rounds}." if rounds else "")
    )


def _cells(row: Judged) -> tuple[str, ...]:
    target = row.target
    baseline = "–"
    if target.baseline:
        name = "" if target.baseline == OURS else f" {target.baseline}"
        baseline = f"{_median(row.baseline, target.unit)}{name}"
    sign = "≤" if target.sense == "at most" else "≥"
    unit = " ×" if target.baseline else f" {target.unit}"
    bound = f"{sign} {number(target.bound)}{unit}"
    if target.exception:
        bound += f"; exception {sign} {number(target.holds)}{unit} ({target.exception.page})"
    ratio = _spread(row.value) if target.baseline else "–"
    ours = _spread(row.ours, target.unit)
    return target.measure, ours, baseline, ratio, bound, row.verdict


def systems_table(samples: list[Sample], question: str) -> str:
    """A question's every figure, one row for each, one column for each system: median (range) over its rounds."""
    mine = [sample for sample in samples if sample.question == question]
    systems = list(dict.fromkeys(sample.system for sample in mine))
    names = list(dict.fromkeys(name for sample in mine for name in (*sample.figures, *sample.faults)))
    rows = [(question, *systems)]
    for name in names:
        cells = []
        for system in systems:
            found = [sample for sample in mine if sample.system == system]
            values = [sample.figures.get(name, sample.faults.get(name)) for sample in found]
            cells.append(_spread(Spread.of(value for value in values if value is not None)))
        rows.append((f"  {name}", *cells))
    return _aligned(rows)


def faults_of_ours(samples: list[Sample]) -> list[str]:
    """What may not be at any speed: one line for each round with a gap, a duplicate, an error, an unfinished stream."""
    return [
        f"{sample.question}, round {sample.round + 1}: "
        + ", ".join(f"{count} {name}" for name, count in sample.faults.items())
        for sample in samples
        if sample.system == OURS and any(sample.faults.values())
    ]


def foreign_load(samples: list[Sample]) -> list[str]:
    """The questions during which others had more of the machine than a figure can bear."""
    lines = []
    for question in dict.fromkeys(sample.question for sample in samples):
        cores = [s.figures["foreign_cores"] for s in samples if s.question == question and "foreign_cores" in s.figures]
        spread = Spread.of(cores)
        if spread is not None and spread.high > FOREIGN_CORES:
            lines.append(f"{question}: {_spread(spread)} cores were busy with something else")
    return lines


def markdown(rows: list[tuple[str, ...]]) -> str:
    """A table to be pasted; the first row is its head."""
    head, *rest = rows
    ruled = [head, tuple("---" for _ in head), *rest]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in ruled)


def _aligned(rows: Iterable[tuple[str, ...]]) -> str:
    table = list(rows)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def _median(spread: Spread | None, unit: str) -> str:
    return "–" if spread is None else f"{number(spread.median)} {unit}"


def _spread(spread: Spread | None, unit: str = "") -> str:
    if spread is None:
        return "–"
    span = "" if spread.low == spread.high else f" ({number(spread.low)}–{number(spread.high)})"
    return f"{number(spread.median)}{span} {unit}".rstrip()


def number(value: float) -> str:
    """Three figures, thousands apart."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
