"""Real processes for tests: API nodes, workers and a Valkey, each of which a test may kill, freeze and start again."""

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import redis

from shared.jobs import JobKey
from shared.storage.keys import job_keys
from shared.telemetry import READY_FD
from tests.support.stores import ValkeyProcess, keys_without_end

GUARD_S = 60.0
_PORTS = (10_000, 30_000)
TAILRACE = (sys.executable, "-P", "-m", "cli.main")


class Process:
    """One `tailrace …` process. `log` is what it wrote to stderr; `program`: what stands for `tailrace`."""

    def __init__(
        self, name: str, command: list[str], env: dict[str, str], log: Path, program: Sequence[str] = TAILRACE
    ) -> None:
        self.name = name
        self.log_path = log
        self._command = command
        self._env = env
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything it has said."""
        return self.log_path.read_text(errors="replace")

    def start(self) -> "Process":
        """Start it and return once it says that it is ready."""
        read_fd, write_fd = os.pipe()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._program, *self._command],
                env={**self._env, READY_FD: str(write_fd)},
                pass_fds=(write_fd,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(write_fd)
        ready, _, _ = select.select([read_fd], [], [], GUARD_S)
        said = os.read(read_fd, 1) if ready else b""
        os.close(read_fd)
        assert said == b"1", f"{self.name} did not become ready:\n{self.log}"
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(GUARD_S)

    def terminate(self) -> int:
        """SIGTERM; its exit status. Killed when the guard runs out."""
        assert self._process is not None
        self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Its exit status."""
        assert self._process is not None
        return self._process.wait(GUARD_S)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it, however it stands."""
        if self.alive:
            self.signal(signal.SIGCONT)
            self.kill()


class Cluster:
    """A Valkey with the users of deploy/, API nodes on ports of their own, and workers. `env`: settings of all."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.valkey = ValkeyProcess(folder / "valkey", with_users=True)
        self.apis: list[Process] = []
        self.workers: list[Process] = []
        self.urls: list[str] = []
        self._env = {**clean_environment(), **env}

    @property
    def url(self) -> str:
        """The first API node."""
        return self.urls[0]

    def _env_of(self, user: str) -> dict[str, str]:
        return {"TAILRACE_REDIS_URL": self.valkey.url_of(user), **self._env}

    def add_api(self, program: Sequence[str] = TAILRACE, host: str = "127.0.0.1") -> Process:
        """One more API node."""
        port = free_port()
        name = f"api-{len(self.apis) + 1}"
        command = ["api", "--host", host, "--port", str(port)]
        process = Process(name, command, self._env_of("api"), self.folder / f"{name}.log", program)
        self.apis.append(process)
        self.urls.append(f"http://{host}:{port}")
        return process.start()

    def add_worker(self) -> Process:
        """One more worker."""
        name = f"worker-{len(self.workers) + 1}"
        process = Process(name, ["worker"], self._env_of("worker"), self.folder / f"{name}.log")
        self.workers.append(process)
        return process.start()

    def owner_of(self, job_id: str, tenant: str = "default") -> Process | None:
        """The worker that holds a job's lease."""
        with contextlib.closing(self.valkey.client()) as client:
            lease = str(client.get(job_keys(JobKey(tenant, job_id)).lease) or "")
        return next((worker for worker in self.workers if f"-{worker.pid}-" in lease), None)

    def keys_left_for_ever(self) -> list[str]:
        """Keys without a time to live that may not be there (DESIGN §2, invariant 7); none while the store is down."""
        with contextlib.closing(self.valkey.client()) as client, contextlib.suppress(redis.exceptions.RedisError):
            return keys_without_end(client)
        return []

    def stop(self) -> None:
        """End everything."""
        for process in (*self.apis, *self.workers):
            process.stop()
        self.valkey.stop()


@contextlib.contextmanager
def running_cluster(
    api: int = 1, workers: int = 1, env: dict[str, str] | None = None, program: Sequence[str] = TAILRACE
) -> Iterator[Cluster]:
    """Real processes for the length of a block. `program`: what stands for `tailrace` where nodes are started."""
    with tempfile.TemporaryDirectory(prefix="tailrace-test-") as folder:
        cluster = Cluster(Path(folder), env or {})
        try:
            cluster.valkey.start()
            for _ in range(api):
                cluster.add_api(program)
            for _ in range(workers):
                cluster.add_worker()
            yield cluster
            assert cluster.keys_left_for_ever() == []
            lacking = cluster.valkey.refusals()
            assert lacking == [], f"the code does what deploy/valkey/users.sh gives no right to: {lacking}"
        finally:
            cluster.stop()


def free_port() -> int:
    """A TCP port that nobody listens on, and that no connection gets meanwhile: systems take theirs from above."""
    for _ in range(100):
        port = random.randint(*_PORTS)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def until(condition: "object", guard_s: float = GUARD_S) -> None:
    """Wait for a callable to become true; AssertionError when the guard runs out."""
    assert callable(condition)
    end = time.monotonic() + guard_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)


def clean_environment() -> dict[str, str]:
    """This process's environment without settings and keys: a test must not depend on who runs it."""
    foreign = ("TAILRACE_", "OPENAI_", "ANTHROPIC_", "LANGSMITH_", "LANGCHAIN_")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
