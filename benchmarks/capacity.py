"""`python -m benchmarks.capacity`: what one machine carries with a provider that waits; the tables of docs/capacity.md.

Six combinations of workers and API nodes, each with 2,000 running jobs and 5,000 readers; then one of each, with more
and more jobs, and more and more readers, until something breaks. Ten minutes at most. `--into FILE` puts the tables
between the file's two marks.
"""

import argparse
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.climbs import more_jobs, more_readers
from benchmarks.crowd import GAP_S, SETTLE_S, Crowd, Look, Wave, by_role, said
from benchmarks.machine import described
from benchmarks.marks import put
from benchmarks.proc import spent, steal_share
from benchmarks.table import markdown, number
from benchmarks.tools import fake_provider

COMBINATIONS = ((1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 2))
JOBS = Wave(streams=2000, ramp_s=25, window_s=15)
"""Read by one reader each, whose request is the job's own."""
FOLLOWERS = Wave(streams=3000, ramp_s=25, window_s=15)
"""Readers of one more answer a node."""
READERS = JOBS.streams + FOLLOWERS.streams
MARK = "make capacity"


@dataclass(frozen=True, slots=True)
class Cost:
    """What so many jobs and readers cost: cores by role, KB a job or reader, CPU ms a start."""

    jobs: int
    readers: int
    cores: dict[str, float]
    worker_kb: float
    reader_kb: float
    valkey_kb: float
    start_ms: float

    @classmethod
    def of(cls, before: Look, first: Look, last: Look) -> "Cost":
        """Memory since `before`, when nothing was open; cores between `first` and `last`, when all was."""
        rss, base = by_role(dict(last.rss_kb)), by_role(dict(before.rss_kb))
        seconds = last.cpu.at_s - first.cpu.at_s
        cores = {role: cpu_s / seconds for role, cpu_s in by_role(spent(first.cpu, last.cpu)).items()}
        starting_s = sum(spent(before.cpu, first.cpu).values()) - sum(cores.values()) * JOBS.from_s / 2
        jobs, readers = max(1, last.jobs), last.readers or READERS
        return cls(
            jobs,
            readers,
            cores,
            (rss["worker"] - base["worker"]) / jobs,
            (rss["api"] - base["api"]) / readers,
            (last.used - before.used) / jobs / 1024,
            starting_s / jobs * 1000,
        )


def combination(provider_port: int, workers: int, apis: int) -> tuple[tuple[str, ...], Cost]:
    """One row: 2,000 jobs and 5,000 readers on so many processes."""
    with Crowd(provider_port, workers=workers, apis=apis) as crowd:
        before = crowd.look()
        life_s = JOBS.to_s + GAP_S + SETTLE_S
        began = time.monotonic()
        loads = crowd.follow(FOLLOWERS, life_s) + crowd.start(JOBS, life_s)
        time.sleep(max(0.0, began + JOBS.from_s - time.monotonic()))
        first = crowd.look()
        time.sleep(max(0.0, began + JOBS.to_s - 0.5 - time.monotonic()))
        last = crowd.look()
        cost = Cost.of(before, first, last)
        seen = [said(load) for load in loads]
        base = by_role(dict(before.rss_kb))
        head = (str(workers), str(apis), number(last.jobs), number(last.readers))
        return (
            *head,
            *_delivery(seen),
            *_cells(cost, base),
            f"{last.connections}",
            f"{steal_share(first.cpu, last.cpu):.0%}",
        ), cost


def _delivery(seen: list[dict[str, Any]]) -> tuple[str, str, str]:
    """Of the worst group of readers: jobs' own, or followers."""
    share = sum(one["in_window"] for one in seen) / (JOBS.expected + FOLLOWERS.expected)
    faults = sum(one["errors"] + one["gaps"] + one["dups"] for one in seen)
    p50, p99 = (max(one["lag_us"][rank] or 0 for one in seen) / 1000 for rank in ("p50", "p99"))
    return f"{share:.1%}" + (f", {faults} faults" if faults else ""), f"{p50:.1f}", f"{p99:.0f}"


def _cells(cost: Cost, base: dict[str, float]) -> tuple[str, ...]:
    return (
        " / ".join(f"{cost.cores[role]:.2f}" for role in ("worker", "api", "valkey")),
        f"{cost.start_ms:.1f}",
        " / ".join(f"{base[role] / 1024:.0f}" for role in ("worker", "api")),
        number(cost.worker_kb),
        number(cost.reader_kb),
        number(cost.valkey_kb),
    )


def rules(cost: Cost) -> str:
    """Rules of thumb, from one worker and one node; a quarter of each core is left free."""

    def of_core(count: int, role: str) -> str:
        return f"{_rounded(0.75 * count / max(0.01, cost.cores[role])):,}"

    def of_gib(each_kb: float) -> str:
        return f"{_rounded(1024 * 1024 / max(0.1, each_kb)):,}"

    starts = f"{_rounded(0.75 * 1000 / cost.start_ms):,}"
    rows: list[tuple[str, ...]] = [
        ("of", "carries"),
        ("a core for workers", f"{of_core(cost.jobs, 'worker')} running jobs that mostly wait"),
        ("a core for API nodes", f"{of_core(cost.readers, 'api')} readers of such jobs"),
        ("a core for Valkey", f"{of_core(cost.jobs, 'valkey')} running jobs that mostly wait"),
        ("a core of all together", f"{starts} jobs that begin a second"),
        ("a GiB for workers", f"{of_gib(cost.worker_kb)} running jobs"),
        ("a GiB for API nodes", f"{of_gib(cost.reader_kb)} readers"),
        ("a GiB for Valkey", f"{of_gib(cost.valkey_kb)} running jobs with short logs; finished answers come on top"),
    ]
    return markdown(rows)


def _rounded(value: float) -> int:
    """To one figure and a half: 1,850 is 1,500."""
    step = 5 * 10 ** (len(str(int(value))) - 2) if value >= 10 else 1
    return int(value // step) * step


HEAD = (
    "workers",
    "API nodes",
    "jobs running",
    "readers",
    "delivered",
    "lag p50, ms",
    "p99, ms",
    "cores: workers / nodes / Valkey",
    "CPU a start, ms",
    "MB before: workers / nodes",
    "KB a job, workers",
    "KB a reader, nodes",
    "KB a job, Valkey",
    "connections to Valkey",
    "steal",
)


CLIMBS = {"jobs": more_jobs, "readers": more_readers}
PARTS = [*(f"{workers}x{apis}" for workers, apis in COMBINATIONS), *CLIMBS]


def tables(provider_port: int, wanted: list[str]) -> str:
    """All of it, as Markdown; each row also to stderr as it comes."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    rows: list[tuple[str, ...]] = [HEAD]
    thumb = []
    for workers, apis in COMBINATIONS:
        if f"{workers}x{apis}" in wanted:
            row, cost = combination(provider_port, workers, apis)
            rows.append(row)
            thumb += [rules(cost)] if (workers, apis) == (1, 1) else []
            print(*row, sep=" | ", file=sys.stderr, flush=True)
    parts = [f"{described()}; `ulimit -n` {files:,}.", *([markdown(rows)] if rows[1:] else []), *thumb]
    for name, climb in CLIMBS.items():
        if name in wanted:
            rows, verdict = climb(provider_port, files)
            parts += [markdown(rows), verdict]
            print(parts[-2], parts[-1], sep="\n", file=sys.stderr, flush=True)
    return "\n\n".join(parts)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.capacity", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--into", type=Path, metavar="FILE", help="put the tables between this file's marks")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="workers x nodes, or one of the climbs")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or what was started would outlive us
    began = time.monotonic()
    with fake_provider() as (port, _process):
        text = tables(port, arguments.only)
    text += f"\n\n{(time.monotonic() - began) / 60:.1f} minutes."
    print(text)
    if arguments.into:
        put(text, arguments.into, MARK)
    return 0


if __name__ == "__main__":
    sys.exit(main())
