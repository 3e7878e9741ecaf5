"""Every system by its name, ready to be started: Tailrace, and the baselines from their registry."""

import contextlib
import http.client
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.baselines.install import installed
from benchmarks.baselines.running import Started, read_until, started
from benchmarks.baselines.systems import SYSTEMS, Site, System
from benchmarks.processes import GUARD_S, Running, Tailrace
from benchmarks.tools import Route
from tests.support.cluster import free_port
from tests.support.stores import running_valkey

HOLD_S = 600.0
"""How long a system that gives no finished stream out again keeps one open."""


class Peer(Running):
    """A baseline with a Valkey of its own, set up as Tailrace's is."""

    def __init__(self, system: System, provider_port: int) -> None:
        if not installed(system.name):
            raise RuntimeError(f"not installed: python -m benchmarks.baselines.install {system.name}")
        self.name = system.name
        self.port = free_port()
        self._system = system
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tailrace-bench-")))
            store = stack.enter_context(running_valkey(folder / "valkey")) if system.uses_store else None
            site = Site(f"http://127.0.0.1:{provider_port}/v1", store.url if store else "", self.port, folder)
            self._started: Started = stack.enter_context(started(system, site))
            self._valkey: dict[str, int] = {}
            if store is not None:
                with contextlib.closing(store.client()) as client:
                    self._valkey = {"valkey": int(client.info("server")["process_id"])}  # type: ignore[index]
            self._stack = stack.pop_all()

    def roles(self) -> dict[str, int]:
        return {**self._started.pids, **self._valkey}

    def route(self, model: str, *, one_request: bool = False) -> Route:
        get = None if self._system.answers_stream else self._system.get
        return Route(self.port, self._system.post, self._system.body(model), get, self._system.headers)

    def begin(self, model: str) -> str:
        body = json.dumps(self._system.detached_body(model, HOLD_S))
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=GUARD_S)) as client:
            client.request("POST", self._system.post, body, {"content-type": "application/json"})
            answer = client.getresponse()
            said = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{self.name}: {answer.status} {said[:500]!r}")
        return str(json.loads(said)["id"])

    def whole(self, job: str) -> str:
        return self._system.whole(job)

    def after(self, job: str, tokens: int) -> tuple[str, str | None]:
        return self._started.after(job, tokens)

    def complete(self, job: str, tokens: int) -> bool:
        read_until(self.port, self.whole(job), f"@{tokens - 1}:", GUARD_S)
        return True

    def stop(self) -> None:
        self._stack.close()


def starters(provider_port: int) -> dict[str, Callable[[], Running]]:
    """Name → what starts it; an OSError, RuntimeError or AssertionError where it cannot be."""
    peers: dict[str, Callable[[], Running]] = {
        name: partial(Peer, system, provider_port) for name, system in SYSTEMS.items()
    }
    return {"tailrace": partial(Tailrace, provider_port), **peers}
