"""What happens when a node's readers all come back at once: 1,000 of one log, each lacking 100 of its 200 tokens."""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.logs import read_again
from benchmarks.processes import Running
from benchmarks.samples import Sample

QUESTION = "storm"
SYSTEMS = ("tailrace", "resumable", "naive", "nchan")
READERS = 1000
WARM = 300
"""Readers before those that count: a runtime that compiles what it runs often is slow the first hundreds of times."""
TOKENS, HELD = 200, 100


def measure(bench: Bench) -> list[Sample]:
    """From the common start to each reader's last token."""
    return bench.each(SYSTEMS, partial(_ask, bench))


def _ask(bench: Bench, running: Running, number: int) -> Sample:
    job = bench.logs.of(running, TOKENS)
    read_again(bench, running, job, TOKENS, HELD, readers=WARM)
    run = read_again(bench, running, job, TOKENS, HELD, readers=READERS)
    figures = {f"{name}_ms": run.ms("last", name) for name in ("p50", "p99", "max")}
    figures["cpu_us"] = sum(run.cpu_s.values()) / (READERS * (TOKENS - HELD)) * 1e6
    figures |= {f"{role}_cpu_ms": cpu_s * 1000 for role, cpu_s in run.cpu_s.items()}
    return Sample(QUESTION, running.name, number, figures, run.faults)
