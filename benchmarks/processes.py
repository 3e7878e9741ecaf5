"""The systems under test as running processes on loopback; Tailrace itself is the one that is made here.

What they have in common stands in `Running`; the baselines' own is in benchmarks/baselines and joined in peers.py.
"""

import contextlib
import http.client
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.tools import Route
from shared.jobs import JobKey
from shared.storage.keys import job_keys
from tests.support.cluster import Cluster

GUARD_S = 60.0
_SETTINGS = {
    "OPENAI_API_KEY": "bench",
    "TAILRACE_LOG_LEVEL": "warning",
    "TAILRACE_SLOTS": "2500",
    "TAILRACE_MAX_QUEUED_JOBS": "100000",
    # Idle readers wait for a token that does not come while they are weighed.
    "TAILRACE_FIRST_TOKEN_TIMEOUT_S": "600",
    "TAILRACE_MAX_OUTPUT_BYTES": str(64 * 1024 * 1024),
}
"""Room for every question; everything else is as it ships."""


class Running:
    """A system that runs. `port`: where it listens on 127.0.0.1. What it cannot do raises NotImplementedError."""

    name: str
    port: int = 0

    def roles(self) -> dict[str, int]:
        """Role (api, worker, valkey …) → pid of its process."""
        return {}

    def route(self, model: str, *, one_request: bool = False) -> Route:
        """How to ask for an answer of `model` and stream it; `one_request`: the POST's own answer is the stream."""
        raise NotImplementedError

    def begin(self, model: str) -> str:
        """Start a generation that goes on without its first client; its id."""
        raise NotImplementedError

    def whole(self, job: str) -> str:
        """The path at which the whole log of a job is read."""
        raise NotImplementedError

    def after(self, job: str, tokens: int) -> tuple[str, str | None]:
        """The path, and the Last-Event-ID, of a reader that has the first `tokens` tokens of a job."""
        raise NotImplementedError

    def complete(self, job: str, tokens: int) -> bool:
        """Whether all `tokens` tokens of a job can be read."""
        raise NotImplementedError

    def stop(self) -> None:
        """End its processes."""


class Floor(Running):
    """No system, but what no system can be below: `provider` is the load tool on the fake provider itself,
    `send_floor` a C program of its own that a question runs."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port

    def route(self, model: str, *, one_request: bool = False) -> Route:
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "x"}]}
        return Route(self.port, "/v1/chat/completions", body)


class Tailrace(Running):
    """Real `tailrace api` and `tailrace worker` processes on an embedded Valkey, its append-only file on."""

    name = "tailrace"

    def __init__(
        self, provider_port: int, *, apis: int = 1, workers: int = 1, env: dict[str, str] | None = None
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tailrace-bench-"))
        base_url = f"http://127.0.0.1:{provider_port}/v1"
        self.cluster = Cluster(self._folder, {**_SETTINGS, "OPENAI_BASE_URL": base_url, **(env or {})})
        try:
            self.cluster.valkey.start()
            self.store = self.cluster.valkey.client()
            for _ in range(apis):
                self.cluster.add_api()
            for _ in range(workers):
                self.cluster.add_worker()
        except BaseException:
            self.stop()
            raise
        self.port = int(self.cluster.url.rpartition(":")[2])

    def roles(self) -> dict[str, int]:
        api = {f"api{n}" if n else "api": process.pid for n, process in enumerate(self.cluster.apis)}
        workers = {f"worker{n}" if n else "worker": process.pid for n, process in enumerate(self.cluster.workers)}
        info: dict[str, Any] = self.store.info("server")  # type: ignore[assignment]
        return {**api, **workers, "valkey": int(info["process_id"])}

    def route(self, model: str, *, one_request: bool = False) -> Route:
        body = {"provider": "openai", "model": model, "prompt": "x"}
        if one_request:
            return Route(self.port, "/jobs", body, headers=("Accept: text/event-stream",))
        return Route(self.port, "/jobs", body, "/jobs/{id}/events")

    def begin(self, model: str) -> str:
        return self.submit(self.route(model).body)

    def submit(self, body: dict[str, Any]) -> str:
        """POST a job; its id."""
        return str(json.loads(self.call("POST", "/jobs", body))["id"])

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """One request on a connection of its own; the answer's body. RuntimeError for a refusal."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=GUARD_S)) as client:
            payload = None if body is None else json.dumps(body)
            client.request(method, path, payload, {"content-type": "application/json"})
            answer = client.getresponse()
            said = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {said[:500]!r}")
        return said

    def whole(self, job: str) -> str:
        return f"/jobs/{job}/events"

    def after(self, job: str, tokens: int) -> tuple[str, str | None]:
        # queued is 0-1 and start the first of its epoch; then come the tokens, one seq each.
        first = self.store.xrange(self._log(job), "(0-1", "+", count=1)
        assert isinstance(first, list)
        return self.whole(job), f"{first[0][0].partition('-')[0]}-{2 + tokens}"

    def complete(self, job: str, tokens: int) -> bool:
        status = json.loads(self.call("GET", f"/jobs/{job}"))["status"]
        if status in ("failed", "cancelled"):
            raise RuntimeError(f"job {job}: {status}")
        return bool(status == "done")

    def log_bytes(self, job: str) -> int:
        """What the log's key takes in the store."""
        used = self.store.memory_usage(self._log(job), samples=0)
        assert isinstance(used, int)
        return used

    def text_bytes(self, job: str) -> int:
        """What the answer's text takes in UTF-8."""
        return len(json.loads(self.call("GET", f"/jobs/{job}"))["text"].encode())

    def _log(self, job: str) -> str:
        return job_keys(JobKey("default", job)).log

    def stop(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        self.cluster.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
