"""What the tools can do alone with each other: that neither the provider nor the load generator is the bottleneck.

The load tool reads from the fake provider itself: 1,000 streams of 20 tokens a second, and 50 as fast as they go.
"""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.paced import Pace, figures, paced
from benchmarks.processes import Running
from benchmarks.questions.flood import flooded
from benchmarks.samples import Sample

QUESTION = "tools"
SYSTEMS = ("provider",)
PACE = Pace(streams=1000, ramp_s=2, window_s=4)
PACED = ("tokens_per_s", "p50_ms", "p99_ms", "load_tool_us", "fake_provider_tool_us")


def measure(bench: Bench) -> list[Sample]:
    """CPU a token of each tool, lag and rate."""
    return bench.each(SYSTEMS, partial(_ask, bench), rounds=3)


def _ask(bench: Bench, running: Running, number: int) -> Sample:
    steady, fast = paced(bench, running, PACE), flooded(bench, running)
    found = {name: value for name, value in figures(steady).items() if name in PACED}
    found |= {"flood_tokens_per_s": figures(fast)["tokens_per_s"]}
    return Sample(QUESTION, running.name, number, found, steady.faults)
