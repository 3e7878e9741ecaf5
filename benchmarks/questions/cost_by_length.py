"""How the cost of reading grows with the length of the log: 100 to 100,000 tokens. For the plot; no target."""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.logs import lengths_for, read_again
from benchmarks.processes import Running
from benchmarks.samples import Sample

QUESTION = "cost_by_length"
SYSTEMS = ("tailrace", "resumable", "naive")
LENGTHS = (100, 1_000, 10_000, 100_000)
MISSED = 50
"""The last so many tokens are what a reader that resumes does not have."""


def measure(bench: Bench) -> list[Sample]:
    """Milliseconds until a reader has all, and until one has the last tokens who has the others."""
    return bench.each(SYSTEMS, partial(_ask, bench), rounds=2)


def _ask(bench: Bench, running: Running, number: int) -> Sample:
    figures: dict[str, float] = {}
    for length in lengths_for(running, LENGTHS):
        job = bench.logs.of(running, length)
        repeat = 3 if length > 10_000 else 9
        for name, held in (("replay", 0), ("resume", length - MISSED)):
            run = read_again(bench, running, job, length, held, repeat=repeat)
            figures[f"{name}_ms of {length}"] = run.ms("last", "p50")
    return Sample(QUESTION, running.name, number, figures)
