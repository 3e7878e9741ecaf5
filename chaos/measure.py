"""How long a killed worker's jobs wait: from the kill to the `reset` in the log, both by the store's clock."""

import statistics
from dataclasses import dataclass
from datetime import datetime

from chaos.judge import Log


@dataclass(frozen=True)
class _Kill:
    at_ms: int
    at_s: float


class Reruns:
    """Kills by job, and what became of them. Times in seconds."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._kills: dict[str, list[_Kill]] = {}
        self._disturbed_s: list[float] = []
        self.calm: list[float] = []
        """Where no other fault came near."""
        self.all: list[float] = []

    def killed(self, jobs: list[str], at_ms: int, at_s: float) -> None:
        """A worker was killed that held these jobs. `at_ms`: by the store's clock; `at_s`: by ours."""
        for job in jobs:
            self._kills.setdefault(job, []).append(_Kill(at_ms, at_s))

    def disturb(self, at_s: float) -> None:
        """Another fault struck."""
        self._disturbed_s.append(at_s)

    def take(self, job: str, log: Log) -> None:
        """Measure in a finished job's log."""
        created = datetime.fromisoformat(str(log.entries[0].data["created_at"])).timestamp() * 1000
        resets = [entry for entry in log.entries if entry.event == "reset" and entry.data["reason"] == "worker_lost"]
        for kill in self._kills.pop(job, []):
            later = [created + entry.data["at_ms"] for entry in resets if created + entry.data["at_ms"] >= kill.at_ms]
            if not later:
                continue  # cancelled meanwhile, or not to be started again
            rerun_s = (later[0] - kill.at_ms) / 1000
            self.all.append(rerun_s)
            near = (kill.at_s - 2 * self._lease_s, kill.at_s + rerun_s + 0.2)
            if not any(near[0] <= at_s <= near[1] for at_s in self._disturbed_s):
                self.calm.append(rerun_s)


def spread(values: list[float]) -> str:
    """p50, p99 and the largest."""
    if not values:
        return "none"
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"{len(values)}: p50 {statistics.median(ordered):.2f} s, p99 {p99:.2f} s, max {ordered[-1]:.2f} s"
