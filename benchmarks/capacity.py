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
from pathlib import Path
from typing import Any

from benchmarks.climbs import more_jobs, more_readers
from benchmarks.crowd import GAP_S, SETTLE_S, Crowd, Look, Wave, by_role, said
from benchmarks.machine import described
from benchmarks.proc import spent, steal_share
from benchmarks.table import markdown, number
from benchmarks.tools import fake_provider

COMBINATIONS = ((1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 2))
JOBS = Wave(streams=2000, ramp_s=20, window_s=15)
"""Read by one reader each, whose request is the job's own."""
FOLLOWERS = Wave(streams=3000, ramp_s=20, window_s=15)
"""Readers of one more answer a node."""
START, END = "<!-- measured: make capacity -->", "<!-- /measured -->"


def combination(provider_port: int, workers: int, apis: int) -> tuple[str, ...]:
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
        return (str(workers), str(apis), *_cells(before, first, last, [said(load) for load in loads]))


def _cells(before: Look, first: Look, last: Look, found: list[dict[str, Any]]) -> tuple[str, ...]:
    readers = JOBS.streams + FOLLOWERS.streams
    delivered = sum(one["in_window"] for one in found) / (JOBS.expected + FOLLOWERS.expected)
    errors = sum(one["errors"] + one["gaps"] + one["dups"] for one in found)
    rss, base = by_role(dict(last.rss_kb)), by_role(dict(before.rss_kb))
    seconds = last.cpu.at_s - first.cpu.at_s
    cores = {role: cpu_s / seconds for role, cpu_s in by_role(spent(first.cpu, last.cpu)).items()}
    start_ms = (sum(spent(before.cpu, first.cpu).values()) - sum(cores.values()) * JOBS.from_s / 2) / JOBS.streams * 1e3
    return (
        number(last.jobs),
        number(last.readers) + (f" ({errors} errors)" if errors else ""),
        f"{delivered:.1%}",
        f"{max(one['lag_us']['p50'] or 0 for one in found) / 1e3:.1f}",
        f"{max(one['lag_us']['p99'] or 0 for one in found) / 1e3:.0f}",
        " / ".join(f"{cores[role]:.2f}" for role in ("worker", "api", "valkey")),
        f"{start_ms:.1f}",
        " / ".join(f"{base[role] / 1024:.0f}" for role in ("worker", "api")),
        number((rss["worker"] - base["worker"]) / JOBS.streams),
        number((rss["api"] - base["api"]) / readers),
        number((last.used - before.used) / JOBS.streams / 1024),
        f"{last.connections}",
        f"{steal_share(first.cpu, last.cpu):.0%}",
    )


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
    for workers, apis in COMBINATIONS:
        if f"{workers}x{apis}" in wanted:
            rows.append(combination(provider_port, workers, apis))
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    parts = [f"{described()}; `ulimit -n` {files:,}.", *([markdown(rows)] if rows[1:] else [])]
    for name, climb in CLIMBS.items():
        if name in wanted:
            rows, verdict = climb(provider_port, files)
            parts += [markdown(rows), verdict]
            print(parts[-2], parts[-1], sep="\n", file=sys.stderr, flush=True)
    return "\n\n".join(parts)


def put(text: str, path: Path) -> None:
    """Replace what stands between the two marks of a file. ValueError where they are not there."""
    before, start, rest = path.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{path} has no {START} … {END}")
    path.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}")


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
        put(text, arguments.into)
    return 0


if __name__ == "__main__":
    sys.exit(main())
