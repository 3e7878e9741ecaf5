"""What the kernel says of processes and machine: CPU seconds, memory, what others used, what the host took (steal).

CPU is utime + stime of a process and of all that it started, in ticks of 10 ms: divide it by thousands of tokens.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PPID, _UTIME, _CSTIME = 1, 11, 14
"""Places in /proc/PID/stat behind the command's name."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One look: when (monotonic s), CPU seconds of each role, of the harness and all its children, of the machine.

    `steal_s`: seconds, summed over cores, in which a core had work and the host ran something else.
    """

    at_s: float
    roles: dict[str, float]
    ours_s: float
    machine_s: float
    steal_s: float


def read(roles: dict[str, int]) -> Reading:
    """CPU seconds so far of each named process tree (role → pid)."""
    stats = _all_stats()
    children = _children(stats)
    by_role = {
        role: sum(_cpu_s(stats[pid]) for pid in _tree(root, children) if pid in stats) for role, root in roles.items()
    }
    mine = sum(_cpu_s(stats[pid]) for pid in _tree(os.getpid(), children) if pid in stats)
    return Reading(time.monotonic(), by_role, mine, *_machine_s())


def spent(before: Reading, after: Reading) -> dict[str, float]:
    """CPU seconds of each role between two looks."""
    return {role: after.roles[role] - before.roles.get(role, 0.0) for role in after.roles}


def foreign_cores(before: Reading, after: Reading) -> float:
    """How many cores were busy with what is not ours. Interrupts count for nobody: they serve our own packets too."""
    ours = after.ours_s - before.ours_s
    return max(0.0, after.machine_s - before.machine_s - ours) / max(1e-9, after.at_s - before.at_s)


def steal_share(before: Reading, after: Reading) -> float:
    """The share of all cores' time, 0 to 1, that the host of a virtual machine took for others."""
    return (after.steal_s - before.steal_s) / max(1e-9, after.at_s - before.at_s) / (os.cpu_count() or 1)


def memory_kb(root: int, field: str = "Pss") -> int:
    """Memory of a process and what it started, in KB: `Pss` (pages shared by n processes count 1/n) or `Rss`."""
    pids = _tree(root, _children(_all_stats()))
    return sum(_rollup_kb(pid, field) for pid in pids)


def _rollup_kb(pid: int, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # ended meanwhile
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def _all_stats() -> dict[int, list[str]]:
    """pid → the fields of its stat behind the command's name, which may hold blanks and brackets."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found[int(folder.name)] = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
    return found


def _children(stats: dict[int, list[str]]) -> dict[int, list[int]]:
    table: dict[int, list[int]] = {}
    for pid, fields in stats.items():
        table.setdefault(int(fields[_PPID]), []).append(pid)
    return table


def _tree(root: int, children: dict[int, list[int]]) -> Iterable[int]:
    yield root
    for child in children.get(root, ()):
        yield from _tree(child, children)


def _cpu_s(fields: list[str]) -> float:
    """Own time and that of children that have ended; those that live are counted themselves."""
    return sum(int(field) for field in fields[_UTIME : _CSTIME + 1]) * _TICK_S


def _machine_s() -> tuple[float, float]:
    """(user, nice and system; steal) of all cores. What was stolen is in no process's time."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return sum(fields[:3]) * _TICK_S, fields[7] * _TICK_S
