"""What a question gets: systems that run, turns in which they alternate, and one way to load them and read the cost.

All systems of a question run all the time and are loaded in turn, so that whatever else the machine does falls on all
of them; a system that did not finish its work is started afresh before its next turn.
"""

import contextlib
import http.client
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import redis

from benchmarks import proc
from benchmarks.logs import Logs
from benchmarks.processes import Floor, Running
from benchmarks.samples import Sample, Turn
from benchmarks.tools import Load, Route, fake

Starter = Callable[[], Running]
_BREAKS = (OSError, RuntimeError, AssertionError, http.client.HTTPException, redis.exceptions.RedisError)
"""What a system may meet its harness with when it does not do its work."""
_FLOORS = frozenset({"provider", "send_floor"})
"""Measured with whatever systems are asked for: what no system can be below."""
BESIDE = frozenset({"naive", "fastapi-resumable"})
"""What nothing is judged against, and what is slow: two rounds say how slow."""
BESIDE_ROUNDS = 2
FAULTS = ("gaps", "dups", "errors", "unfinished")


@dataclass(frozen=True, slots=True)
class Plan:
    """How the measurements are made. `quick`: shorter runs, fewer readers; see benchmarks/README.md."""

    rounds: int = 5
    quick: bool = False
    systems: tuple[str, ...] = ()
    """Only these; empty: all that a question knows."""


@dataclass
class Run:
    """One run of the load tool: its figures, and the CPU seconds of each role, over all of it and within the window."""

    result: dict[str, Any]
    cpu_s: dict[str, float]
    window_cpu_s: dict[str, float]
    tools_s: dict[str, float]
    """CPU seconds of the load tool and the fake provider."""
    faults: dict[str, int]

    def ms(self, what: str, rank: str) -> float:
        """`rank` (p50, p99, max …) of `what` (lag, first, last) in milliseconds; endless where nothing came."""
        found = self.result[f"{what}_us"][rank]
        return math.inf if found is None else float(found) / 1000


class Bench:
    """Starts systems when they are first needed and ends them when it is left."""

    def __init__(self, plan: Plan, starters: dict[str, Starter], provider: tuple[int, int]) -> None:
        self.plan = plan
        self._starters = starters
        self._provider_port, self._provider_pid = provider
        self._running: dict[str, Running] = {}
        self._dirty: set[str] = set()
        self.logs = Logs()
        """The long logs, which several questions read."""
        self.turns: list[Turn] = []
        """Every turn that was taken, with its seconds."""
        self.on_round: Callable[[int, int], None] = lambda _number, _rounds: None
        """Told when a round begins: its number from 0, and how many there will be."""
        self.missing: dict[str, str] = {}
        """System → why it could not be started."""
        self.broken: list[tuple[str, str]] = []
        """(system, what went wrong): turns without a sample."""

    def wants(self, name: str) -> bool:
        """Whether a system is to be measured, and can be."""
        wanted = self.plan.systems
        return (not wanted or name in wanted or name in _FLOORS) and name not in self.missing

    def system(self, name: str) -> Running:
        """A system that runs and has nothing to do. KeyError for one that nobody knows."""
        if name in self._dirty:
            self.stop(name)
        if name not in self._running:
            self._running[name] = self._started(name)
        return self._running[name]

    def _started(self, name: str) -> Running:
        if name in _FLOORS:
            return Floor(name, self._provider_port)
        running = self._starters[name]()
        # What a process loads with its first answer is no answer's cost.
        Load("sequential", running.route(fake(20, 0)), tokens=20, timeout_s=20, repeat=3).result()
        return running

    def each(
        self, names: tuple[str, ...], ask: Callable[[Running, int], Sample], *, fresh: bool = False, rounds: int = 50
    ) -> list[Sample]:
        """`ask(system, round)` of each wanted system in turn, round by round; each round begins with another one.

        `fresh`: started anew for each turn. `rounds`: no more than so many. Beside what is measured nothing works. A
        system that breaks is noted, started anew, and loses that round alone.
        """
        samples = []
        rounds = min(rounds, self.plan.rounds)
        for number in range(rounds):
            self.on_round(number, rounds)
            wanted = [name for name in names if self.wants(name) and takes_part(name, number)]
            first = number % max(1, len(wanted))
            for name in wanted[first:] + wanted[:first]:
                if fresh:
                    self.spoiled(name)
                began = time.monotonic()
                if (running := self._try(name)) is not None:
                    samples += self._turn(running, number, ask)
                self.turns.append(Turn(name, time.monotonic() - began))
        return samples

    def _turn(self, running: Running, number: int, ask: Callable[[Running, int], Sample]) -> list[Sample]:
        """The sample, with what the machine's others and its host took meanwhile."""
        before = proc.read({})
        try:
            sample = ask(running, number)
            after = proc.read({})
            machine = {"foreign_cores": proc.foreign_cores(before, after), "steal": proc.steal_share(before, after)}
            return [replace(sample, figures=sample.figures | machine)]
        except _BREAKS as error:
            self.broken.append((running.name, f"round {number + 1}: {type(error).__name__}: {error}"))
            self.spoiled(running.name)
            return []
        finally:
            if running.name in self._dirty:
                self.stop(running.name)  # at once: what it still has to do would be taken from the next one's turn

    def _try(self, name: str) -> Running | None:
        """The system, or None where it cannot be started here: then it is not asked again."""
        try:
            return self.system(name)
        except (KeyError, *_BREAKS) as error:
            self.missing[name] = f"{type(error).__name__}: {error}"
            return None

    def spoiled(self, name: str) -> None:
        """It is ended behind this turn, and its next one begins with a fresh start."""
        self._dirty.add(name)

    def stop(self, name: str) -> None:
        """End a system."""
        self._dirty.discard(name)
        if running := self._running.pop(name, None):
            running.stop()

    def close(self) -> None:
        """End all of them."""
        with contextlib.ExitStack() as stack:
            for name in list(self._running):
                stack.callback(self.stop, name)

    def load(self, running: Running, mode: str, route: Route, *, timeout_s: float, tokens: int, **options: Any) -> Run:
        """Run the load tool on a system; CPU within `from_s`..`to_s` after its start is read apart, where given."""
        roles = {**running.roles(), "fake_provider": self._provider_pid}
        before = proc.read(roles)
        load = Load(mode, route, tokens=tokens, timeout_s=timeout_s, **options)
        inside = []
        for moment in (options.get("from_s"), options.get("to_s")):
            if moment is not None:
                time.sleep(max(0.0, before.at_s + moment - time.monotonic()))
                inside.append(proc.read(roles))
        result = load.result()
        after = proc.read(roles)
        cpu_s = proc.spent(before, after)
        window = proc.spent(*inside) if len(inside) == 2 else dict(cpu_s)
        tools_s = {"load": float(result.get("cpu_s", 0)), "fake_provider": cpu_s.pop("fake_provider")}
        window.pop("fake_provider")
        faults = {name: int(result.get(name, 0)) for name in FAULTS if result.get(name)}
        if faults:
            self.spoiled(running.name)
        return Run(result, cpu_s, window, tools_s, faults)


def takes_part(name: str, number: int) -> bool:
    """Whether a system has a turn in the round of this number (from 0)."""
    return name not in BESIDE or number < BESIDE_ROUNDS
