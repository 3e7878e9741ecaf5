"""How late a token is at its reader: 100 streams of 20 tokens a second, one reader each."""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.paced import Pace, paced, sample
from benchmarks.processes import Running
from benchmarks.samples import Sample

QUESTION = "lag_100"
SYSTEMS = ("tailrace", "direct", "resumable", "naive", "fastapi-resumable", "nchan", "provider")
QUICK = Pace(streams=100, ramp_s=1, window_s=2)
FULL = Pace(streams=100, ramp_s=2, window_s=5)


def measure(bench: Bench) -> list[Sample]:
    """`provider` is the load tool on the provider itself: what the tools alone add."""
    return bench.each(SYSTEMS[:-1] if bench.plan.quick else SYSTEMS, partial(_ask, bench))


def _ask(bench: Bench, running: Running, number: int) -> Sample:
    pace = QUICK if bench.plan.quick else FULL
    return sample(QUESTION, running, number, paced(bench, running, pace), pace)
