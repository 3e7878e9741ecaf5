"""How lag grows with the number of streams: 10, 100, 500 and 1,000 of 20 tokens a second. For the plot; no target."""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.paced import figures, paced
from benchmarks.processes import Running
from benchmarks.samples import Sample

QUESTION = "lag_by_streams"
SYSTEMS = ("tailrace", "direct", "resumable")
STREAMS = (10, 100, 500, 1000)
SHOWN = ("p50_ms", "p99_ms", "tokens_per_s")


def measure(bench: Bench) -> list[Sample]:
    """One sample a round and system, its figures named after the number of streams; one that fails is asked no more."""
    return bench.each(SYSTEMS, partial(_ask, bench), rounds=3)


def _ask(bench: Bench, running: Running, number: int) -> Sample:
    found: dict[str, float] = {}
    for streams in STREAMS:
        run = paced(bench, running, streams, 120, ramp_s=2)
        found |= {f"{name} of {streams}": value for name, value in figures(run).items() if name in SHOWN}
        if run.faults:
            break
    return Sample(QUESTION, running.name, number, found)
