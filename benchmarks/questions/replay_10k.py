"""How long a reader waits for the whole of a long answer that is in the log: 10,000 tokens, and 100,000."""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.logs import lengths_for, read_again
from benchmarks.processes import Running
from benchmarks.samples import Sample

QUESTION = "replay_10k"
SYSTEMS = ("tailrace", "resumable", "naive")
NAMES = {10_000: "10k", 100_000: "100k"}
REPEAT = {10_000: 9, 100_000: 3}


def measure(bench: Bench) -> list[Sample]:
    """From connect to the last token, one reader after the other on fresh connections; the median of each round."""
    return bench.each(SYSTEMS, partial(_ask, bench))


def _ask(bench: Bench, running: Running, number: int) -> Sample:
    figures: dict[str, float] = {}
    faults: dict[str, int] = {}
    for length in lengths_for(running, NAMES):
        name = NAMES[length]
        run = read_again(bench, running, bench.logs.of(running, length), length, 0, repeat=REPEAT[length])
        figures[f"replay_{name}_ms"] = run.ms("last", "p50")
        figures[f"replay_{name}_first_ms"] = run.ms("first", "p50")
        figures[f"replay_{name}_cpu_ms"] = sum(run.cpu_s.values()) / REPEAT[length] * 1000
        faults |= run.faults
    return Sample(QUESTION, running.name, number, figures, faults)
