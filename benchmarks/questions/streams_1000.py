"""What 1,000 streams of 20 tokens a second get: tokens delivered, how late, and at which cost in CPU.

Systems that cannot are cut off soon after the last token was due; their unfinished streams are reported, not hidden.
"""

from benchmarks.bench import Bench
from benchmarks.paced import paced, sample
from benchmarks.samples import Sample

QUESTION = "streams_1000"
SYSTEMS = ("tailrace", "direct", "resumable", "naive", "nchan")


def measure(bench: Bench) -> list[Sample]:
    """Behind a ramp of three seconds."""
    tokens = 110 if bench.plan.quick else 200
    return bench.each(
        SYSTEMS,
        lambda running, number: sample(QUESTION, running, number, paced(bench, running, 1000, tokens, ramp_s=3)),
    )
