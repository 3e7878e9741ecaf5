"""What a reader pays who lacks the last 100 tokens: of a log of 100,000 against of one of 1,000."""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.logs import read_again
from benchmarks.processes import Running
from benchmarks.samples import Sample

QUESTION = "resume_tail"
SYSTEMS = ("tailrace", "resumable")
NAMES = {1_000: "1k", 100_000: "100k"}
MISSED = 100
REPEAT = 60


def measure(bench: Bench) -> list[Sample]:
    """From connect to the last token, one reader after the other on fresh connections; the median of each round."""
    return bench.each(SYSTEMS, partial(_ask, bench))


def _ask(bench: Bench, running: Running, number: int) -> Sample:
    figures: dict[str, float] = {}
    faults: dict[str, int] = {}
    for length, name in NAMES.items():
        run = read_again(bench, running, bench.logs.of(running, length), length, length - MISSED, repeat=REPEAT)
        figures[f"of_{name}_ms"] = run.ms("last", "p50")
        figures[f"of_{name}_cpu_ms"] = sum(run.cpu_s.values()) / REPEAT * 1000
        faults |= run.faults
    return Sample(QUESTION, running.name, number, figures, faults)
