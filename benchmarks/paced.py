"""Many streams of 20 tokens a second, one reader each, and what such a run says: delivery, lag, CPU a token."""

import math
from dataclasses import dataclass

from benchmarks.bench import Bench, Run
from benchmarks.processes import Running
from benchmarks.samples import Sample
from benchmarks.targets import OURS
from benchmarks.tools import fake

PER_S = 20
GAP_US = 1_000_000 // PER_S
EDGE_S = 0.5
"""Between the last start and the window, and between the window and the first end: the window holds neither."""
LATE_S = 3.0
"""How long after its last token was due a baseline is cut off: what it still owed then is a figure of it."""
PATIENCE_S = 15.0
"""The same for ours, with the run's length once more on top (in a full run twice): what never ends is a fault, what is
late is not."""


@dataclass(frozen=True, slots=True)
class Pace:
    """`streams` begun evenly over `ramp_s` seconds; measured is the `window_s` in which all of them are under way."""

    streams: int
    ramp_s: float
    window_s: float

    @property
    def tokens(self) -> int:
        """Of each stream: the first one ends half a second behind the window."""
        return math.ceil((self.ramp_s + self.window_s + 2 * EDGE_S) * PER_S)

    @property
    def due_s(self) -> float:
        """When the last token of the last stream is due, in seconds after the start."""
        return self.ramp_s + self.tokens / PER_S


def paced(bench: Bench, running: Running, pace: Pace) -> Run:
    """One request a stream where the system can: the POST's own answer."""
    from_s = pace.ramp_s + EDGE_S
    window = {"ramp_s": pace.ramp_s, "from_s": from_s, "to_s": from_s + pace.window_s}
    again_s = (1 if bench.plan.quick else 2) * pace.due_s
    late_s = PATIENCE_S + again_s if running.name == OURS else LATE_S
    route = running.route(fake(pace.tokens, GAP_US), one_request=True)
    limit_s = pace.due_s + late_s
    return bench.load(running, "streams", route, tokens=pace.tokens, streams=pace.streams, timeout_s=limit_s, **window)


def figures(run: Run) -> dict[str, float]:
    """`cpu_us`: a token's share of the whole run, starts and ends included; `window_cpu_us`: of the window alone."""
    result = run.result
    tokens, inside = result["tokens"], result["in_window"]
    return {
        "tokens_per_s": inside / max(1e-9, result["window_s"]),
        **{f"{name}_ms": run.ms("lag", name) for name in ("p50", "p99", "max")},
        "cpu_us": sum(run.cpu_s.values()) / tokens * 1e6 if tokens else math.inf,
        "window_cpu_us": sum(run.window_cpu_s.values()) / inside * 1e6 if inside else math.inf,
        **{f"{role}_us": cpu_s / max(1, inside) * 1e6 for role, cpu_s in run.window_cpu_s.items()},
        **{f"{name}_tool_us": cpu_s / max(1, tokens) * 1e6 for name, cpu_s in run.tools_s.items()},
        "first_p50_ms": run.ms("first", "p50"),
        "finished": float(result["finished"]),
    }


def sample(question: str, running: Running, number: int, run: Run, pace: Pace | None = None) -> Sample:
    """Such a run as a sample; with its pace, `late_s` is how long after it was due the last stream had its end."""
    late = {} if pace is None else {"late_s": run.result["elapsed_s"] - pace.due_s}
    return Sample(question, running.name, number, figures(run) | late, run.faults)
