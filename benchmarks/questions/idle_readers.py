"""What a reader costs in memory who waits for a token that does not come."""

from functools import partial

from benchmarks import proc
from benchmarks.bench import Bench
from benchmarks.processes import Running
from benchmarks.samples import Sample
from benchmarks.tools import Load, fake

QUESTION = "idle_readers"
SYSTEMS = ("tailrace", "resumable", "naive")
WARM = 50
"""Readers before the first weighing: what a process loads with its first connections is no reader's."""
HOLD_S = 60.0


def measure(bench: Bench) -> list[Sample]:
    """Each time on a system of its own: a heap that has been larger would hide what readers need."""
    return bench.each(SYSTEMS, partial(_ask, bench), fresh=True, rounds=3)


def _ask(bench: Bench, running: Running, number: int) -> Sample:
    readers = 1000 if bench.plan.quick else 5000
    job = running.begin(fake(2, 0, 600_000_000))
    warm = _attached(running, job, WARM)
    before = _memory(running)
    load = _attached(running, job, readers)
    after = _memory(running)
    for each in (load, warm):
        each.process.communicate("", timeout=HOLD_S + 10)
    bench.spoiled(running.name)  # its generation goes on for minutes
    grown = {role: after[role] - before[role] for role in after}
    front = "api" if "api" in grown else next(iter(grown))
    figures = {"kb_per_reader": grown[front] / readers, "base_mb": before[front] / 1024}
    figures |= {f"{role}_kb_per_reader": kb / readers for role, kb in grown.items() if role != front}
    return Sample(QUESTION, running.name, number, figures)


def _attached(running: Running, job: str, readers: int) -> Load:
    options: dict[str, float | str | bool] = {"url_path": running.whole(job), "readers": readers, "hold_s": HOLD_S}
    load = Load("idle", running.route(""), tokens=2, timeout_s=HOLD_S + 30, ramp_s=readers / 2000, **options)
    said = load.stdout.readline()
    if said.strip() != "open":
        raise RuntimeError(f"{running.name}: {readers} readers did not attach: {said}")
    return load


def _memory(running: Running) -> dict[str, int]:
    """Role → resident KB."""
    return {role: proc.memory_kb(pid, "Rss") for role, pid in running.roles().items()}
