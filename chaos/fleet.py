"""The processes under test: a Valkey, API nodes and workers, each of which the faults may kill, freeze or mislead."""

import asyncio
import contextlib
import time
from collections.abc import Collection
from pathlib import Path

import redis

from chaos.clocks import Clock
from cli.valkey import EmbeddedValkey
from shared.jobs import JobKey
from shared.storage.keys import job_keys, job_of
from shared.storage.log import all_entries
from shared.storage.merged import RawEntries
from tests.support.cluster import Process, clean_environment, free_port
from tests.support.stores import ValkeyProcess, keys_without_end

APIS = 2
WORKERS = 3


class Store(ValkeyProcess):
    """The embedded Valkey, with a clock of its own."""

    def __init__(self, data_dir: Path, clock: Clock) -> None:
        super().__init__(data_dir)
        variables = [f"{name}={value}" for name, value in clock.environment.items()]
        # `env` becomes the server: the process to signal stays the same.
        self._embedded = EmbeddedValkey(["/usr/bin/env", *variables, *self._embedded.argv], self._embedded.url)


class Fleet:
    """Everything that runs. A context manager: at its end nothing runs any more, however it ended."""

    def __init__(self, folder: Path, lease_s: float, provider: dict[str, str], library: Path | None) -> None:
        self.folder = folder
        self.lease_s = lease_s
        self.clocks = {name: Clock(folder, name, library) for name in _names()}
        self.store = Store(folder / "valkey", self.clocks["store"])
        self.ports = [free_port() for _ in range(APIS)]
        self._env = {
            **clean_environment(),
            **provider,
            "TAILRACE_REDIS_URL": self.store.url,
            "TAILRACE_LEASE_S": str(lease_s),
            "TAILRACE_LEASE_RENEW_S": str(round(lease_s / 3, 3)),
            "TAILRACE_WORKER_DRAIN_S": "0.3",
            "TAILRACE_DRAIN_S": "3",
            "TAILRACE_DRAIN_SPREAD_S": "0.3",
            "TAILRACE_HEARTBEAT_S": "2",
            "TAILRACE_WRITE_TIMEOUT_S": "4",
            "TAILRACE_JOB_DEADLINE_S": "120",
        }
        self.apis = [self._process(f"api-{n + 1}", "api", "--port", str(port)) for n, port in enumerate(self.ports)]
        self.workers = [self._process(f"worker-{n + 1}", "worker") for n in range(WORKERS)]
        self.down: set[Process] = set()
        """What a fault has taken down just now; whatever else is not alive has died by itself."""
        self.exits: list[str] = []
        """Processes that ended by themselves, or not as they should."""
        self._closed = False

    def _process(self, name: str, *command: str) -> Process:
        env = {**self._env, **self.clocks[name].environment}
        return Process(name, list(command), env, self.folder / f"{name}.log")

    @property
    def processes(self) -> list[Process]:
        """Nodes and workers."""
        return [*self.apis, *self.workers]

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for process in self.processes:
            process.stop()
        self.store.stop()

    async def start(self) -> None:
        """Start everything."""
        await asyncio.to_thread(self.store.start)
        await asyncio.gather(*(self.up(process) for process in self.processes))

    async def up(self, process: Process) -> None:
        """Start a process; it may be called upon again."""
        if not self._closed:
            await asyncio.to_thread(process.start)
        self.down.discard(process)
        if self._closed:
            process.stop()

    def watch(self) -> None:
        """Note whatever has ended although nobody ended it."""
        for process in self.processes:
            if process not in self.down and not process.alive:
                self.down.add(process)
                self.exits.append(f"{process.name} ended by itself:\n{process.log[-2000:]}")

    def client(self) -> "redis.Redis":
        """A client of the store, for faults and counts."""
        return redis.Redis.from_url(self.store.url, decode_responses=True, socket_timeout=8)

    def owned(self, jobs: Collection[str]) -> dict[Process, list[str]]:
        """Which worker holds which of `jobs`; nothing while the store is away."""
        table: dict[Process, list[str]] = {}
        with contextlib.suppress(redis.exceptions.RedisError), self.client() as client:
            keys = [job_keys(JobKey("default", job)).lease for job in jobs]
            leases = client.mget(keys) if keys else []
            for job, lease in zip(jobs, leases, strict=False):
                for worker in self.workers:
                    if worker.alive and f"-{worker.pid}-" in (lease or ""):
                        table.setdefault(worker, []).append(job)
        return table

    def epochs(self, jobs: Collection[str]) -> dict[str, str]:
        """The last id of each job's log; empty where there is none."""
        with self.client() as client:
            pipe = client.pipeline(transaction=False)
            for job in jobs:
                pipe.xrevrange(job_keys(JobKey("default", job)).log, count=1)
            return {job: rows[0][0] if rows else "" for job, rows in zip(jobs, pipe.execute(), strict=True)}

    def events(self, job: str) -> list[tuple[str, str | None]]:
        """Id and text of each event in a job's log, merged ones apart."""
        with self.client() as client:
            raw: RawEntries = client.xrange(job_keys(JobKey("default", job)).log)
        return [(str(entry.id), getattr(entry.event, "text", None)) for entry in all_entries(raw)]

    def still_open(self) -> list[str]:
        """Jobs on the index of open ones."""
        with self.client() as client:
            return [str(member) for member in client.zrange("tailrace:open", 0, -1)]

    def keys_left_for_ever(self) -> list[str]:
        """Keys without a time to live that may not be there (DESIGN §2, invariant 7)."""
        with self.client() as client:
            return keys_without_end(client)

    def dump(self, job: str) -> list[str]:
        """Everything the store holds of a job, for a person to read."""
        keys = job_keys(JobKey("default", job))
        with self.client() as client:
            raw: RawEntries = client.xrange(keys.log)
            log = [f"{entry.id} {entry.event}" for entry in all_entries(raw)]
            return [
                f"meta of {job_of(keys.meta)}: {client.hgetall(keys.meta)}",
                f"lease: {client.get(keys.lease)}",
                *log,
            ]

    def said(self, words: str, *, workers_only: bool = False) -> int:
        """How often the logs hold some words."""
        return sum(process.log.count(words) for process in (self.workers if workers_only else self.processes))

    def now_ms(self) -> int:
        """The store's clock, ms since 1970."""
        with self.client() as client:
            seconds, micros = client.time()
            return int(seconds) * 1000 + int(micros) // 1000


async def until(condition: "object", guard_s: float, every_s: float = 0.05) -> bool:
    """Wait for a callable to become true; False when the guard runs out."""
    assert callable(condition)
    end = time.monotonic() + guard_s
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(every_s)
    return True


def _names() -> list[str]:
    return ["store", *(f"api-{n + 1}" for n in range(APIS)), *(f"worker-{n + 1}" for n in range(WORKERS))]
