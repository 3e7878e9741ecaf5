"""What a process and its sockets cost, seen from outside: memory, descriptors, buffers, lateness."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROBED = (sys.executable, "-P", "-m", "chaos.drills._probe")
"""What stands for `tailrace` where a node is to have a probe."""
PROBE = "DRILL_PROBE"
"""The variable that names the probe's socket."""
_SKMEM = re.compile(r"skmem:\(r(\d+),rb\d+,t(\d+),tb\d+,f(\d+),w(\d+),")


def rss_bytes(pid: int) -> int:
    """The resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found, f"process {pid} has no memory: it has ended"
    return int(found[1]) * 1024


def descriptors(pid: int) -> int:
    """How many files and connections a process has open, but for those to the store: a pool that grows to its bound."""
    local = {line.split()[6] for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]}
    targets = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            targets.append(str(link.readlink()))
    return sum(target.removeprefix("socket:[").removesuffix("]") not in local for target in targets)


def sockets(port: int, within: Sequence[str] = ()) -> list[int]:
    """The kernel's memory in bytes for each connection that a server on `port` has. `within`: a namespace's command."""
    command = [*within, "ss", "-H", "-O", "-t", "-m", "-n", "state", "all", f"( sport = :{port} )"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    held = [line for line in said.splitlines() if not line.startswith(("LISTEN", "TIME-WAIT"))]
    found = [_SKMEM.search(line) for line in held]
    return [sum(map(int, (match[1], match[3]))) + max(int(match[2]), int(match[4])) for match in found if match]


def lateness_ms(heard_at: Sequence[float], per_s: float) -> list[float]:
    """By how much each token of an evenly paced answer came later than the most punctual one, in ms."""
    offsets = [at - place / per_s for place, at in enumerate(heard_at)]
    return [(offset - min(offsets)) * 1000 for offset in offsets]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The rise of y per unit of x, by least squares."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


async def probe(path: str) -> tuple[int, list[float]]:
    """What a node run by `_probe` says: its tasks, and by how many ms each look at its loop came late since the last
    question."""
    reader, writer = await asyncio.open_unix_connection(path)
    said = json.loads(await reader.read())
    writer.close()
    return int(said["tasks"]), list(said["late_ms"])
