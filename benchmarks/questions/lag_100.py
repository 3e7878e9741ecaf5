"""How late a token is at its reader: 100 streams of 20 tokens a second, one reader each."""

from benchmarks.bench import Bench
from benchmarks.paced import paced, sample
from benchmarks.samples import Sample

QUESTION = "lag_100"
SYSTEMS = ("tailrace", "direct", "resumable", "naive", "fastapi-resumable", "nchan", "provider")


def measure(bench: Bench) -> list[Sample]:
    """`provider` is the load tool on the provider itself: what the tools alone add."""
    tokens = 70 if bench.plan.quick else 140
    return bench.each(
        SYSTEMS[:-1] if bench.plan.quick else SYSTEMS,
        lambda running, number: sample(QUESTION, running, number, paced(bench, running, 100, tokens, ramp_s=1)),
    )
