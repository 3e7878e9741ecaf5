"""How lag grows with the number of streams, 10 to 1,000 of 20 tokens a second. For the plot; no target.

100 and 1,000 are questions of their own (lag_100, streams_1000), and the plot takes them from there.
"""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.paced import Pace, figures, paced
from benchmarks.processes import Running
from benchmarks.samples import Sample

QUESTION = "lag_by_streams"
SYSTEMS = ("tailrace", "direct", "resumable", "nchan")
PACES = tuple(Pace(streams, ramp_s=max(1.0, streams / 100), window_s=3) for streams in (10, 50, 250, 500))
SHOWN = ("p50_ms", "p99_ms", "tokens_per_s")


def measure(bench: Bench) -> list[Sample]:
    """One sample a round and system, its figures named after the number of streams."""
    return bench.each(SYSTEMS, partial(_ask, bench), rounds=2)


def _ask(bench: Bench, running: Running, number: int) -> Sample:
    found: dict[str, float] = {}
    for pace in PACES:
        running = bench.system(running.name)  # anew where the one before left streams behind
        run = paced(bench, running, pace)
        found |= {f"{name} of {pace.streams}": value for name, value in figures(run).items() if name in SHOWN}
    return Sample(QUESTION, running.name, number, found)
