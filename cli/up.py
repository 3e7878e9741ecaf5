"""`tailrace up`: a whole Tailrace on one machine: embedded Valkey, API nodes and workers as supervised processes."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from api.keyring import refuse_weak_keys
from api.server import listening_socket
from cli.processes import Child, ChildFailedError
from cli.valkey import embedded_valkey, sole_use
from shared.errors import TailraceError
from shared.settings import Settings

_START_GUARD_S = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start. `redis_url` empty: the embedded Valkey, with its data in `data_dir`."""

    settings: Settings
    api: int
    workers: int
    redis_url: str


class Up:
    """The supervisor. `say` shows a line to the user; `ready` becomes the URL once everything serves."""

    def __init__(self, plan: Plan, say: Callable[[str], None] = lambda line: print(line, flush=True)) -> None:  # noqa: T201
        self._plan = plan
        self._say = say
        self._stopping = asyncio.Event()
        self._children: list[Child] = []
        self.store_url = plan.redis_url
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def stop(self) -> None:
        """End `run`, all children first."""
        self._stopping.set()

    async def run(self) -> None:
        """Start everything, say `ready`, restart what crashes, and stop everything on SIGINT or SIGTERM.

        TailraceError where it may not or cannot start, ChildFailedError where a child does not become ready.
        """
        settings = self._plan.settings
        refuse_weak_keys(settings)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(_bound(settings))
            embedded = not self._plan.redis_url
            if embedded:
                stack.enter_context(sole_use(settings.data_dir))
            try:
                await self._start(sock, embedded=embedded)
            finally:
                await self._stop()

    async def _start(self, sock: socket.socket, *, embedded: bool) -> None:
        env = {**os.environ, "TAILRACE_REDIS_URL": self._plan.redis_url}
        url = f"http://{_host_in_url(self._plan.settings.host)}:{sock.getsockname()[1]}"
        if embedded:
            valkey = embedded_valkey(self._plan.settings.data_dir)
            env["TAILRACE_REDIS_URL"] = self.store_url = valkey.url
            child = valkey.child()
            self._children.append(child)
            await child.start(_START_GUARD_S)
        fronts = [
            self._child(f"api-{n + 1}", ["api", "--fd", str(sock.fileno())], env, sock) for n in range(self._plan.api)
        ]
        workers = [
            self._child(f"worker-{n + 1}", ["worker"], self._of_worker(n, env)) for n in range(self._plan.workers)
        ]
        self._children += fronts + workers
        await self._start_all(fronts + workers)
        if not self._stopping.is_set():
            self.ready.set_result(url)
            self._say(
                f"ready: {url}  ({self._plan.api} API, {self._plan.workers} workers, "
                f"{'Valkey in ' + str(self._plan.settings.data_dir) if embedded else 'your Redis'}; Ctrl-C stops all)"
            )
        async with asyncio.TaskGroup() as group:
            watching = [group.create_task(child.watch(self._say, _START_GUARD_S)) for child in self._children]
            await self._stopping.wait()
            for task in watching:
                task.cancel()

    def _of_worker(self, number: int, env: dict[str, str]) -> dict[str, str]:
        """The environment of one worker: each shows its metrics on a port of its own, from the one that is set on."""
        port = self._plan.settings.worker_metrics_port
        return {**env, "TAILRACE_WORKER_METRICS_PORT": str(port + number)} if port else env

    async def _start_all(self, children: list[Child]) -> None:
        """Start all at once; ChildFailedError for the first that fails. Returns early when the user has had enough."""
        starting = asyncio.gather(*(child.start(_START_GUARD_S) for child in children))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            both: set[asyncio.Future[Any]] = {starting, stopping}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
        finally:
            stopping.cancel()
            starting.cancel()

    def _child(self, name: str, command: list[str], env: dict[str, str], sock: socket.socket | None = None) -> Child:
        settings = self._plan.settings
        return Child(
            name,
            # -P: a folder called `api` or `shared` where the user stands must not shadow ours.
            [sys.executable, "-P", "-m", "cli.main", *command],
            env,
            max(settings.drain_s, settings.worker_drain_s) + 7.0,
            inherit=(sock.fileno(),) if sock is not None else (),
        )

    async def _stop(self) -> None:
        """API nodes and workers first, together; the store when nobody needs it any more."""
        stores = [child for child in self._children if child.name == "valkey"]
        others = [child for child in self._children if child.name != "valkey"]
        if others:
            self._say("stopping …")
        await asyncio.gather(*(child.stop() for child in others))
        await asyncio.gather(*(child.stop() for child in stores))


@contextlib.contextmanager
def _bound(settings: Settings) -> Iterator[socket.socket]:
    """The socket that all API nodes share: while one is restarted, the others accept."""
    try:
        sock = listening_socket(settings.host, settings.port)
    except OSError as error:
        raise TailraceError(
            "internal", f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}. Choose another --port."
        ) from None
    with sock:
        yield sock


def _host_in_url(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 - a comparison; binding there needs a key
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


__all__ = ["ChildFailedError", "Plan", "Up"]
