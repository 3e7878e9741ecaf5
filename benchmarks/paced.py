"""Many streams of 20 tokens a second, one reader each, and what such a run says: delivery, lag, CPU a token."""

import math

from benchmarks.bench import Bench, Run
from benchmarks.processes import Running
from benchmarks.samples import Sample
from benchmarks.tools import fake

PER_S = 20
GAP_US = 1_000_000 // PER_S
LATE_S = 1.5
"""How long after the last token was due a run is cut off."""


def paced(bench: Bench, running: Running, streams: int, tokens: int, ramp_s: float) -> Run:
    """Streams begun evenly over `ramp_s`; the window is the time in which all of them run."""
    window = {"ramp_s": ramp_s, "from_s": ramp_s + 0.25, "to_s": tokens / PER_S - 0.25}
    limit_s = ramp_s + tokens / PER_S + LATE_S
    route = running.route(fake(tokens, GAP_US))
    return bench.load(running, "streams", route, tokens=tokens, streams=streams, timeout_s=limit_s, **window)


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
        "finished": float(result["finished"]),
        "foreign_cores": run.foreign_cores,
    }


def sample(question: str, running: Running, number: int, run: Run) -> Sample:
    """Such a run as a sample."""
    return Sample(question, running.name, number, figures(run), run.faults)
