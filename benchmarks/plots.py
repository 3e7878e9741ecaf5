"""Two plots of kept samples as SVG: lag against streams, and the cost of reading against the length of the log.

`python -m benchmarks --from .bench/last.json --plots FOLDER` makes them of the last run. The SVG is written here, line
by line: the plots need no package, and a new measurement is a small difference in Git.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from benchmarks.samples import Sample, Spread

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 44, 52
FONT = 'font-family="sans-serif" font-size="12"'
COLOURS = {"tailrace": "#0b6e99", "direct": "#c2571a", "resumable": "#3f7d3a", "naive": "#8a4fa3", "nchan": "#777777"}


PLOTTED = ("lag_by_streams", "lag_100", "streams_1000", "cost_by_length")
"""The questions whose figures the plots show."""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: x → median and range."""

    label: str
    colour: str
    points: dict[float, Spread]
    dashed: bool = False


def points(
    samples: list[Sample], question: str, system: str, figure: str, at: float | None = None
) -> dict[float, list[float]]:
    """x → values of `figure`: x is `at`, or stands in the figure's name behind ` of `."""
    found: dict[float, list[float]] = {}
    for sample in samples:
        if (sample.question, sample.system) == (question, system):
            for name, value in sample.figures.items():
                kind, _, place = name.partition(" of ")
                if kind == figure and bool(place) == (at is None) and 0 < value < math.inf:
                    found.setdefault(float(place) if at is None else at, []).append(value)
    return found


def line(system: str, label: str, values: dict[float, list[float]], *, dashed: bool = False) -> Line:
    """A curve of such points."""
    spreads = {x: spread for x, found in sorted(values.items()) if (spread := Spread.of(found)) is not None}
    return Line(f"{system}, {label}", COLOURS.get(system, "#555555"), spreads, dashed)


def plot(title: str, x_title: str, y_title: str, lines: list[Line]) -> str:
    """An SVG with logarithmic axes: medians as a line, ranges as bars."""
    lines = [each for each in lines if each.points]
    xs = [x for each in lines for x in each.points]
    ys = [y for each in lines for spread in each.points.values() for y in (spread.low, spread.high)]
    across, up = _Axis(xs, LEFT, WIDTH - RIGHT), _Axis(ys, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{title}</text>',
        *_grid(across, up),
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{x_title}</text>',
        f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})">{y_title}</text>',
    ]
    for number, each in enumerate(lines):
        parts += _curve(each, across, up, TOP + 10 + 18 * number)
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """Values on a logarithmic scale, from one pixel to another; `ticks`: decades, with 2 and 5 where they are few."""

    def __init__(self, values: list[float], start: float, end: float) -> None:
        self._low, self._high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        self._high = max(self._high, self._low + 1)
        self._start, self._end = start, end
        between = (1, 2, 5) if self._high - self._low <= 2 else (1,)
        ticks = [step * 10.0**power for power in range(self._low, self._high + 1) for step in between]
        self.ticks = [tick for tick in ticks if tick <= 10.0**self._high]

    def at(self, value: float) -> float:
        """The pixel of a value."""
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 1)


def _grid(across: _Axis, up: _Axis) -> list[str]:
    parts = []
    for tick in across.ticks:
        x = across.at(tick)
        parts.append(f'<path d="M{x} {TOP}V{HEIGHT - BOTTOM}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:,g}</text>')
    for tick in up.ticks:
        y = up.at(tick)
        parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{tick:,g}</text>')
    return parts


def _curve(each: Line, across: _Axis, up: _Axis, legend_y: float) -> list[str]:
    places = [(across.at(x), spread) for x, spread in each.points.items()]
    path = " ".join(f"{x},{up.at(spread.median)}" for x, spread in places)
    dash = ' stroke-dasharray="5 4"' if each.dashed else ""
    stroke = f'stroke="{each.colour}" stroke-width="2"{dash}'
    parts = [f'<polyline points="{path}" fill="none" {stroke}/>']
    for x, spread in places:
        parts.append(f'<path d="M{x} {up.at(spread.low)}V{up.at(spread.high)}" stroke="{each.colour}"/>')
        parts.append(f'<circle cx="{x}" cy="{up.at(spread.median)}" r="3" fill="{each.colour}"/>')
    x = WIDTH - RIGHT + 12
    parts.append(f'<path d="M{x} {legend_y}h18" {stroke}/>')
    parts.append(f'<text x="{x + 24}" y="{legend_y + 4}">{each.label}</text>')
    return parts


def write_plots(samples: list[Sample], folder: Path) -> list[Path]:
    """The files that were written: those for which there is anything to show."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, svg in plots(samples).items():
        (folder / name).write_text(svg)
        written.append(folder / name)
    return written


def plots(samples: list[Sample]) -> dict[str, str]:
    """File name → SVG, of what was asked."""
    wanted = {
        "lag-by-streams.svg": (
            "Lag of a token at its reader, streams of 20 tokens a second",
            "streams",
            "milliseconds, median and range over rounds",
            _lag(samples),
        ),
        "cost-by-length.svg": (
            "Reading a finished answer again: all of it, or its last 50 tokens",
            "tokens in the log",
            "milliseconds from connect to the last token",
            _cost(samples),
        ),
    }
    return {name: plot(*what) for name, what in wanted.items() if any(each.points for each in what[-1])}


def _lag(samples: list[Sample]) -> list[Line]:
    """100 and 1,000 streams are questions of their own."""
    lines = []
    for system in ("tailrace", "direct", "resumable", "nchan"):
        for name in ("p99", "p50"):
            values = points(samples, "lag_by_streams", system, f"{name}_ms")
            for question, streams in (("lag_100", 100), ("streams_1000", 1000)):
                values |= points(samples, question, system, f"{name}_ms", streams)
            lines.append(line(system, name, values, dashed=name == "p50"))
    return lines


def _cost(samples: list[Sample]) -> list[Line]:
    kinds = {"replay": "all of it", "resume": "last 50"}
    return [
        line(system, label, points(samples, "cost_by_length", system, f"{kind}_ms"), dashed=kind == "resume")
        for system in ("tailrace", "resumable", "naive")
        for kind, label in kinds.items()
    ]
