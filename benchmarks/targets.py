"""What is to be reached, as data: the measures of the benchmark, their bounds, and how a set of samples is judged.

A bound is on a ratio taken round by round, or on a figure of ours alone. It is missed when the median is beyond it and
so is the best round: what noise alone may explain is not called a miss.
"""

from dataclasses import dataclass
from typing import Literal

from benchmarks.samples import Sample, Spread, figures

OURS = "tailrace"
QUICK_BASELINES = frozenset({"", OURS, "direct", "send_floor"})
"""What `--quick` judges against: no npm, no nginx."""


@dataclass(frozen=True, slots=True)
class RecordedException:
    """A target that cannot be reached: the bound that holds instead, what limits it, and the page with the profile."""

    bound: float
    because: str
    page: str


@dataclass(frozen=True, slots=True)
class Target:
    """One row. `figure`: ours; `baseline`: the system whose figure divides it, empty for none.

    `less`: a system whose figure of the same round is first taken off both (the provider's own time).
    `baseline_figure`: where the divisor has another name (of our own, with `baseline` = OURS).
    """

    question: str
    measure: str
    figure: str
    unit: str
    bound: float
    baseline: str = ""
    sense: Literal["at most", "at least"] = "at most"
    less: str = ""
    baseline_figure: str = ""
    exception: RecordedException | None = None
    required: bool = True
    """False where the baseline is a Debian package that a machine may be without."""

    @property
    def holds(self) -> float:
        """The bound that counts: beyond it the target is missed."""
        return self.exception.bound if self.exception else self.bound

    def reached_by(self, value: float, bound: float) -> bool:
        """Whether one value is within a bound."""
        return value <= bound if self.sense == "at most" else value >= bound


Verdict = Literal["ok", "noise", "excepted", "MISSED", "no figures"]
"""`noise`: only some rounds reach it; `excepted`: within its recorded exception, not within the target itself."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A target with what was measured. `value`: what the bound is on."""

    target: Target
    ours: Spread | None
    baseline: Spread | None
    value: Spread | None
    verdict: Verdict


def judge(target: Target, samples: list[Sample]) -> Judged:
    """One row of the table."""
    ours = figures(samples, target.question, OURS, target.figure)
    theirs = figures(samples, target.question, target.baseline, target.baseline_figure or target.figure)
    off = figures(samples, target.question, target.less, target.figure) if target.less else {}
    values = ours if not target.baseline else _ratios(ours, theirs, off if target.less else None)
    spread = Spread.of(values.values())
    return Judged(target, Spread.of(ours.values()), Spread.of(theirs.values()), spread, _verdict(target, spread))


def _ratios(ours: dict[int, float], theirs: dict[int, float], off: dict[int, float] | None) -> dict[int, float]:
    """Round → ratio, of the rounds in which everything was measured."""
    rounds = ours.keys() & theirs.keys() & (ours.keys() if off is None else off.keys())
    less = off or dict.fromkeys(rounds, 0.0)
    return {
        number: max(0.0, ours[number] - less[number]) / (theirs[number] - less[number])
        for number in rounds
        if theirs[number] > less[number]
    }


def _verdict(target: Target, spread: Spread | None) -> Verdict:
    if spread is None:
        return "no figures"
    if target.reached_by(spread.median, target.bound):
        return "ok"
    if target.exception and target.reached_by(spread.median, target.holds):
        return "excepted"
    best = spread.low if target.sense == "at most" else spread.high
    return "noise" if target.reached_by(best, target.holds) else "MISSED"


D, R, C, NCHAN = "direct", "resumable", "send_floor", "nchan"

_BOUNDS = "docs/decisions/0022-what-bounds-the-figures.md"
_TURNS = "three processes take turns, and the SDK's call is in one of them as it is in D"
_CORES = "20,000 tok/s at this cost a token are three and more of the two cores"
_COMPACT = "a finished log takes a sixth of the memory, and is unpacked for whoever replays it"

TARGETS = (
    Target(
        "first_token",
        "first token, 1 stream, over the provider's own",
        "p50_ms",
        "ms",
        0.8,
        D,
        less="provider",
        exception=RecordedException(2.0, _TURNS, _BOUNDS),
    ),
    Target("lag_100", "lag, 100 streams × 20 tok/s, p99", "p99_ms", "ms", 0.3, D),
    Target(
        "streams_1000",
        "1,000 streams × 20 tok/s, delivered",
        "tokens_per_s",
        "tok/s",
        19_800,
        sense="at least",
        exception=RecordedException(6_000, _CORES, _BOUNDS),
    ),
    Target(
        "streams_1000",
        "the same, lag p99",
        "p99_ms",
        "ms",
        60,
        exception=RecordedException(800, _CORES, _BOUNDS),
    ),
    Target(
        "streams_1000",
        "the same, lag p99 over nchan's",
        "p99_ms",
        "ms",
        2,
        NCHAN,
        exception=RecordedException(60, _CORES, _BOUNDS),
        required=False,
    ),
    Target(
        "streams_1000",
        "the same, CPU a token, steady",
        "window_cpu_us",
        "µs",
        0.25,
        D,
        exception=RecordedException(0.7, _CORES, _BOUNDS),
    ),
    Target(
        "streams_1000",
        "the same, CPU a token, starts and ends with it",
        "cpu_us",
        "µs",
        0.25,
        D,
        exception=RecordedException(0.8, _CORES, _BOUNDS),
    ),
    Target("flood", "flood, 50 streams", "tokens_per_s", "tok/s", 12, D, sense="at least"),
    Target("fan_out", "one log → 1,000 readers, CPU an event", "window_cpu_us", "µs", 0.4, R),
    Target("fan_out", "one log → 1,000 readers, CPU an event, over the C floor", "window_cpu_us", "µs", 2.3, C),
    Target(
        "replay_10k",
        "replay of 10,000 tokens",
        "replay_10k_ms",
        "ms",
        1.0,
        R,
        exception=RecordedException(1.5, _COMPACT, _BOUNDS),
    ),
    Target("replay_10k", "replay of 100,000 tokens", "replay_100k_ms", "ms", 1.5, R),
    Target(
        "resume_tail",
        "last 100 of 100,000 over last 100 of 1,000",
        "of_100k_ms",
        "ms",
        1.3,
        OURS,
        baseline_figure="of_1k_ms",
    ),
    Target("storm", "1,000 readers come back at once, p99", "p99_ms", "ms", 0.8, R),
    Target("idle_readers", "memory of an idle reader, API process", "kb_per_reader", "KB", 12),
    Target("pickup", "POST answered → start, idle, p50", "p50_ms", "ms", 2),
    Target("pickup", "POST answered → start, idle, p99", "p99_ms", "ms", 10),
    Target("pickup", "the same beside 150 running jobs, p99", "busy_p99_ms", "ms", 20),
    Target("bytes_per_token", "Valkey bytes a token, finished", "log_bytes", "B", 9),
)
