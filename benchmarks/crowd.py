"""A Tailrace with thousands of slow answers and readers on it, and what they cost each process: for capacity.py.

The provider waits: a token every five seconds a stream, so that what is measured is what open answers cost, not tokens.
"""

import contextlib
import http.client
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import proc
from benchmarks.processes import Tailrace
from benchmarks.tools import Load, Route, fake

GAP_S = 5.0
SETTLE_S = 3.0
"""Between the last start and the window."""
ATTACH_PER_S = 500
"""Readers of nothing that come a second: about half of what a core can greet."""


@dataclass(frozen=True, slots=True)
class Wave:
    """Streams begun evenly over `ramp_s` seconds, then measured for `window_s`; they stay until they are let go."""

    streams: int
    ramp_s: float
    window_s: float

    @property
    def from_s(self) -> float:
        """When the window begins, in seconds after the start."""
        return self.ramp_s + SETTLE_S

    @property
    def to_s(self) -> float:
        """When it ends."""
        return self.from_s + self.window_s

    @property
    def expected(self) -> float:
        """Tokens that are due within the window."""
        return self.streams * self.window_s / GAP_S


@dataclass(frozen=True, slots=True)
class Look:
    """What kernel, store and nodes say at one moment. `used`: bytes, as the store counts; `files`: open descriptors."""

    cpu: proc.Reading
    rss_kb: dict[str, int]
    used: int
    connections: int
    jobs: int
    readers: int
    files: dict[str, int]


class Crowd:
    """A running Tailrace, and every load that was put on it. Leaving it ends all of them."""

    def __init__(self, provider_port: int, *, workers: int, apis: int) -> None:
        # One worker must be able to take all there are; what it ships with is 100.
        slots = {"TAILRACE_SLOTS": "50000", "TAILRACE_FIRST_TOKEN_TIMEOUT_S": "900"}
        self.running = Tailrace(provider_port, apis=apis, workers=workers, env=slots)
        self.ports = [int(url.rpartition(":")[2]) for url in self.running.cluster.urls]
        self._loads = contextlib.ExitStack()
        for port in self.ports:  # what a process loads with its first answer is no answer's cost
            Load("sequential", self.route(port, fake(20, 0)), tokens=20, timeout_s=20, repeat=20).result()

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        self._loads.close()
        self.running.stop()

    def route(self, port: int, model: str = "") -> Route:
        """One request a stream, at one of the nodes."""
        asked = self.running.route(model, one_request=True)
        return Route(port, asked.post, asked.body, headers=asked.headers)

    def start(self, wave: Wave, life_s: float) -> list[Load]:
        """A wave of streams, shared among the nodes; each has tokens for `life_s` seconds."""
        tokens = int(life_s / GAP_S)
        model = fake(tokens, int(GAP_S * 1e6))
        share = wave.streams // len(self.ports)
        return [self._staying("streams", self.route(port, model), wave, tokens, streams=share) for port in self.ports]

    def follow(self, wave: Wave, life_s: float) -> list[Load]:
        """One more answer for each node, read by its share of `wave.streams` readers."""
        tokens = int(life_s / GAP_S)
        share = wave.streams // len(self.ports)
        loads = []
        for port in self.ports:
            path = self.running.whole(self.running.begin(fake(tokens, int(GAP_S * 1e6))))
            loads.append(self._staying("fan", self.route(port), wave, tokens, readers=share, url_path=path))
        return loads

    def hold(self, port: int, job: str, readers: int, patience_s: float) -> Load:
        """Readers of an answer that does not come; the load says `open` once all have their head."""
        load = Load(
            "idle",
            self.route(port),
            tokens=2,
            timeout_s=patience_s,
            readers=readers,
            ramp_s=readers / ATTACH_PER_S,
            url_path=self.running.whole(job),
        )
        return self._kept(load)

    def _staying(self, mode: str, route: Route, wave: Wave, tokens: int, **options: float | str) -> Load:
        times: dict[str, float | str | bool] = {"ramp_s": wave.ramp_s, "from_s": wave.from_s, "to_s": wave.to_s}
        return self._kept(Load(mode, route, tokens=tokens, timeout_s=300, stay=True, **times, **options))

    def _kept(self, load: Load) -> Load:
        self._loads.callback(load.process.wait, 10)
        self._loads.callback(load.process.kill)
        return load

    def look(self) -> Look:
        """Everything, now."""
        roles = self.running.roles()
        store = self.running.store
        memory: dict[str, Any] = store.info("memory")  # type: ignore[assignment]
        clients: dict[str, Any] = store.info("clients")  # type: ignore[assignment]
        jobs = sum(1 for _ in store.scan_iter(match="*:lease", count=10_000))
        rss = {role: proc.memory_kb(pid, "Rss") for role, pid in roles.items()}
        files = {role: len(list(Path(f"/proc/{pid}/fd").iterdir())) for role, pid in roles.items()}
        connected = int(clients["connected_clients"]) - 1  # our own
        readers = sum(map(_readers, self.ports))
        return Look(proc.read(roles), rss, int(memory["used_memory"]), connected, jobs, readers, files)


def _readers(port: int) -> int:
    """How many event streams a node has open; 0 where it does not say."""
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as client:
            client.request("GET", "/metrics")
            metrics = client.getresponse().read().decode()
    except OSError:
        return 0  # it may have no descriptor left for us
    found = re.search(r"^tailrace_readers (\S+)", metrics, re.MULTILINE)
    return round(float(found.group(1))) if found else 0


def said(load: Load) -> dict[str, Any]:
    """What a staying load saw in its window. RuntimeError where it says nothing."""
    line = load.stdout.readline()
    if not line:
        raise RuntimeError("the load tool ended without figures")
    found: dict[str, Any] = json.loads(line)
    return found


def by_role(figures: dict[str, float]) -> dict[str, float]:
    """Sums over the processes of each kind: api, worker, valkey."""
    sums: dict[str, float] = {}
    for role, value in figures.items():
        kind = role.rstrip("0123456789")
        sums[kind] = sums.get(kind, 0) + value
    return sums
