"""What 1,000 streams of 20 tokens a second get: tokens delivered, how late, and at which cost in CPU.

They begin over ten seconds, so that a second of the window is not one of starts. Systems that cannot are cut off soon
after the last token was due; their unfinished streams are reported, not hidden.
"""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.paced import Pace, paced, sample
from benchmarks.processes import Running
from benchmarks.samples import Sample

QUESTION = "streams_1000"
SYSTEMS = ("tailrace", "direct", "resumable", "naive", "nchan")
QUICK = Pace(streams=1000, ramp_s=7, window_s=2)
FULL = Pace(streams=1000, ramp_s=10, window_s=6)
QUICK_ROUNDS = 2
"""Half a minute each: a third would not fit into the five minutes."""


def measure(bench: Bench) -> list[Sample]:
    """The window is the time in which all of them are under way."""
    return bench.each(SYSTEMS, partial(_ask, bench), rounds=QUICK_ROUNDS if bench.plan.quick else 50)


def _ask(bench: Bench, running: Running, number: int) -> Sample:
    pace = QUICK if bench.plan.quick else FULL
    return sample(QUESTION, running, number, paced(bench, running, pace), pace)
