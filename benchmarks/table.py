"""The table that `make bench` prints: targets with the figures reached, and each system's own figures below."""

from collections.abc import Iterable

from benchmarks.samples import Sample, Spread
from benchmarks.targets import OURS, Judged

FOREIGN_CORES = 0.2
"""Above this a table says so: ratios bear it, lags and rates do not."""


def targets_table(rows: list[Judged]) -> str:
    """measure | ours | baseline | ratio (median, range) | target | ok."""
    head = ("measure", "ours", "baseline", "ratio (range)", "target", "ok")
    return _aligned([head, *(_cells(row) for row in rows)])


def _cells(row: Judged) -> tuple[str, ...]:
    target = row.target
    baseline = "–"
    if target.baseline:
        name = "" if target.baseline == OURS else f" {target.baseline}"
        baseline = f"{_median(row.baseline, target.unit)}{name}"
    sign = "≤" if target.sense == "at most" else "≥"
    bound = f"{sign} {_number(target.holds)}{' ×' if target.baseline else ' ' + target.unit}"
    if target.exception:
        bound += f" (not {_number(target.bound)}: {target.exception.page})"
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


def _aligned(rows: Iterable[tuple[str, ...]]) -> str:
    table = list(rows)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def _median(spread: Spread | None, unit: str) -> str:
    return "–" if spread is None else f"{_number(spread.median)} {unit}"


def _spread(spread: Spread | None, unit: str = "") -> str:
    if spread is None:
        return "–"
    return f"{_number(spread.median)} ({_number(spread.low)}–{_number(spread.high)}) {unit}".rstrip()


def _number(value: float) -> str:
    """Three figures, thousands apart."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
