"""One worker and one API node with more and more jobs, or more and more readers, until something breaks."""

import contextlib
import select
import time
from typing import Any

from benchmarks.crowd import GAP_S, Crowd, Look, Wave, by_role, said
from benchmarks.proc import spent
from benchmarks.table import number
from benchmarks.tools import Load, fake

JOBS = Wave(streams=2000, ramp_s=20, window_s=10)
"""Of each step. Those of the steps before go on beside it."""
MOST_JOBS = 10_000
LATE_MS, SHARE = 1000, 0.99
"""What counts as broken: a p99 of the newest step's lag above this, or less than this share of its tokens."""
READERS = 4000
MOST_READERS = 24_000
OPEN_S = 60.0
"""For a step's readers to have their response heads."""
PROBES = 20
JOBS_HEAD = (
    "jobs running",
    "delivered",
    "lag p50, ms",
    "p99, ms",
    "cores: worker / node / Valkey",
    "MB: worker / node / Valkey",
    "files: worker / node",
)

Rows = list[tuple[str, ...]]


def more_jobs(provider_port: int, files: int) -> tuple[Rows, str]:
    """Steps of 2,000 jobs, each with its reader; the verdict says which step broke, and by what."""
    rows: Rows = [JOBS_HEAD]
    broken = ""
    with Crowd(provider_port, workers=1, apis=1) as crowd:
        for step in range(MOST_JOBS // JOBS.streams):
            life_s = (MOST_JOBS // JOBS.streams - step) * (JOBS.to_s + 2) + GAP_S
            began = time.monotonic()
            (load,) = crowd.start(JOBS, life_s)
            time.sleep(max(0.0, began + JOBS.from_s - time.monotonic()))
            first = crowd.look()
            found = said(load)
            last = crowd.look()
            share = found["in_window"] / JOBS.expected
            p50, p99 = ((found["lag_us"][rank] or float("inf")) / 1e3 for rank in ("p50", "p99"))
            row = (number(last.jobs), f"{share:.1%}", f"{p50:.1f}", f"{p99:.0f}", *_state(first, last))
            rows.append(row)
            if found["errors"] or share < SHARE or p99 > LATE_MS:
                broken = f"with {last.jobs:,} jobs running: {_why(found, first, last, files)}"
                if (behind := JOBS.streams * (step + 1) - first.jobs) > 0:
                    broken += f"; {behind:,} had not begun when all should have"
                break
    return rows, f"More jobs: broke {broken}." if broken else f"More jobs: {MOST_JOBS:,} did not break it."


def _why(found: dict[str, Any], first: Look, last: Look, files: int) -> str:
    """What was at its end: files, or the core of a process, or what the first error says."""
    full = [f"{role} has {count:,} of {files:,} files open" for role, count in last.files.items() if count > files - 50]
    seconds = last.cpu.at_s - first.cpu.at_s
    busy = [f"{role}'s core is full" for role, cpu_s in spent(first.cpu, last.cpu).items() if cpu_s / seconds > 0.85]
    both = sum(spent(first.cpu, last.cpu).values()) / seconds
    said_first = [found["error_first"]] if found.get("errors") else []
    return "; ".join(full + busy + said_first) or f"the processes had {both:.2f} cores between them"


def _state(first: Look, last: Look) -> tuple[str, str, str]:
    seconds = last.cpu.at_s - first.cpu.at_s
    cores = by_role({role: cpu_s / seconds for role, cpu_s in spent(first.cpu, last.cpu).items()})
    memory = by_role(dict(last.rss_kb))
    roles = ("worker", "api", "valkey")
    return (
        " / ".join(f"{cores[role]:.2f}" for role in roles),
        " / ".join(number(memory[role] / 1024) for role in roles),
        " / ".join(number(last.files[role]) for role in roles[:2]),
    )


def more_readers(provider_port: int, files: int) -> tuple[Rows, str]:
    """Steps of 4,000 readers of one answer that does not come; beside them, how long a new job's first token takes."""
    rows: Rows = [("readers", "open", "MB: node", "KB a reader", "files: node", "another's first token, ms")]
    broken = ""
    with Crowd(provider_port, workers=1, apis=1) as crowd:
        (port,) = crowd.ports
        job = crowd.running.begin(fake(2, 0, 900_000_000))
        before = crowd.look()
        for asked in range(READERS, MOST_READERS + 1, READERS):
            load = crowd.hold(port, job, READERS, 200)
            opened = _opened(load)
            probe = _probe(crowd, port)
            now = crowd.look()
            open_there = now.readers - before.readers
            memory = now.rss_kb["api"]
            each = (memory - before.rss_kb["api"]) / max(1, now.files["api"] - before.files["api"])
            first = f"{probe:.1f}" if probe else "none"
            rows.append((number(asked), number(open_there), number(memory / 1024), f"{each:.1f}"))
            rows[-1] = (*rows[-1], number(now.files["api"]), first)
            if not opened or open_there < asked or probe is None:
                full = f"the node has {now.files['api']:,} of {files:,} files open; " * (now.files["api"] > files - 50)
                broken = f"on the way to {asked:,} readers of one node: {full}{_first_error(load)}"
                break
    return rows, f"More readers: broke {broken}." if broken else f"More readers: {MOST_READERS:,} did not break it."


def _opened(load: Load) -> bool:
    ready, _, _ = select.select([load.stdout], [], [], OPEN_S)
    return bool(ready) and load.stdout.readline().strip() == "open"


def _first_error(load: Load) -> str:
    """What the first reader met that was not let in, once the load is told to end."""
    ended = load.end()
    return str(ended["error_first"]) or f"{ended['unfinished']} had no response head within {OPEN_S:.0f} s"


def _probe(crowd: Crowd, port: int) -> float | None:
    """The median until the first token of other jobs at this node; None where they do not come."""
    found = {}
    with contextlib.suppress(RuntimeError):
        route = crowd.route(port, fake(20, 0))
        found = Load("sequential", route, tokens=20, timeout_s=10, repeat=PROBES).result()
    if not found or found["finished"] < PROBES:
        return None
    return float(found["first_us"]["p50"]) / 1e3
