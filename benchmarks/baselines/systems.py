"""The baselines as values: how each is started, asked, read and resumed, for a harness that treats all alike.

All take the same body, `{"model", "prompt"}`. Where they keep a log, `id` in it is the caller's own name of the stream;
`detached` (where the POST's answer is the stream) asks for {"id"} instead, at once, the generation going on by itself;
`hold_s` keeps a finished stream of `resumable` open. Every frame is `data: {"text": "…"}`, the last `data: [DONE]`.
"""

import getpass
import os
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.baselines.install import HERE, NCHAN_MODULE, NODE, VENV

ROOT = HERE.parents[1]
_PYTHON = (sys.executable, "-P", "-m")

Resume = Literal["last-event-id", "characters", "chunks"]
"""How a reader says what it has: the id of its last event, or how many characters or chunks of the body it has read."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a system runs. `folder`: an empty one of its own; `store_url`: an empty Redis or Valkey of its own."""

    provider_url: str
    store_url: str
    port: int
    folder: Path

    def env(self) -> dict[str, str]:
        """The environment of every process of a baseline."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        mine = {"PROVIDER_URL": self.provider_url, "REDIS_URL": self.store_url, "PORT": str(self.port)}
        return {**kept, **mine, "PYTHONPATH": str(ROOT), "MODULES": str(NODE), "FOLDER": str(self.folder)}


@dataclass(frozen=True, slots=True)
class Command:
    """One process: its role in the table of CPU by process, and how it is started (in ROOT, with the site's env)."""

    role: str
    argv: tuple[str, ...]
    ready: str | None = None
    """A file in the site's folder that is there once the process is ready; None: the port tells."""


@dataclass(frozen=True, slots=True)
class System:
    """One baseline. `note`: what stands beside its figures, first of all its helps and handicaps."""

    name: str
    note: str
    commands: Callable[[Site], list[Command]]
    post: str
    get: str | None = None
    answers_stream: bool = True
    """Whether the POST's own answer is the stream."""
    resume: Resume | None = None
    headers: tuple[str, ...] = ()
    """What a GET must say beside its path, as `Name: value`."""
    uses_store: bool = True
    uses_provider: bool = True
    keeps_finished: bool = True
    """Whether a finished log can be read; where not, ask for it with `hold_s`."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What the body needs so that the generation outlives its POST."""

    def body(self, model: str) -> dict[str, Any]:
        """The POST of a stream that its own client reads."""
        return {"model": model, "prompt": "x"}

    def detached_body(self, model: str, hold_s: float = 0.0) -> dict[str, Any]:
        """The POST of a stream that is read by `get` alone; its JSON answer has the `id`."""
        held = {} if self.keeps_finished else {"hold_s": hold_s}
        return {**self.body(model), **self.extra, **held}

    def whole(self, stream_id: str) -> str:
        """The path of all of a stream."""
        if self.get is None:
            raise NotImplementedError(f"{self.name} keeps nothing")
        return self.get.replace("{id}", stream_id)


def _script(role: str, module: str, python: tuple[str, ...] = _PYTHON) -> Command:
    return Command(role, (*python, f"benchmarks.baselines.{module}"))


def _direct(_site: Site) -> list[Command]:
    return [_script("api", "direct")]


def _naive(_site: Site) -> list[Command]:
    argv = (*_PYTHON, "arq", "benchmarks.baselines.naive_worker.WorkerSettings")
    worker = Command("worker", argv, "worker.ready")
    return [_script("api", "naive_api"), worker]


def _resumable(_site: Site) -> list[Command]:
    return [Command("node", (shutil.which("node") or "node", str(HERE / "resumable_stream.mjs")))]


def _fastapi_resumable(_site: Site) -> list[Command]:
    return [_script("api", "fastapi_resumable", (str(VENV / "bin" / "python"), "-P", "-m"))]


def _nchan(site: Site) -> list[Command]:
    """Writes nginx's configuration into the site's folder."""
    config = (HERE / "nchan.conf.in").read_text()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[
        1
    ]  # what nginx may have: without privileges it cannot ask for more
    values = {
        "MODULE": NCHAN_MODULE,
        "FOLDER": site.folder,
        "PORT": site.port,
        "USER": getpass.getuser(),
        "FILES": files,
    }
    for name, value in values.items():
        config = config.replace(f"@{name}@", str(value))
    path = site.folder / "nginx.conf"
    path.write_text(config)
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin") or "nginx"
    # nginx has no limit of its own on its life; the others set an alarm.
    bounded = ("timeout", "--kill-after=5", "7200", nginx, "-e", "stderr", "-c", str(path))
    publisher = Command("publisher", (*_PYTHON, "benchmarks.baselines.nchan_publisher"), "publisher.sock")
    return [publisher, Command("nginx", bounded)]


SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System(
            "direct",
            "FastAPI + AsyncOpenAI + StreamingResponse, one process",
            _direct,
            "/chat",
            uses_store=False,
        ),
        System(
            "naive",
            "arq as shipped, the openai SDK, an awaited XADD a token, an XREAD a reader",
            _naive,
            "/jobs",
            "/jobs/{id}/events",
            answers_stream=False,
            resume="last-event-id",
        ),
        System(
            "resumable",
            "npm resumable-stream 2.2.13 + ioredis 6.0.0; in its favour: a raw reader of the provider, no store before "
            "the first client",
            _resumable,
            "/chat",
            "/chat/{id}",
            resume="characters",
            keeps_finished=False,
            extra={"detached": True},
        ),
        System(
            "fastapi-resumable",
            "PyPI fastapi-resumable-stream 0.2.1, the openai SDK",
            _fastapi_resumable,
            "/chat",
            "/chat/{id}",
            resume="chunks",
            extra={"detached": True},
        ),
        System(
            "nchan",
            "nchan 1.3.6 in Debian's nginx, one worker, memory store; in its favour: tokens are made in its publisher, "
            "no provider is read",
            _nchan,
            "/pub",
            "/sub/{id}",
            answers_stream=False,
            resume="last-event-id",
            headers=("Accept: text/event-stream",),
            uses_store=False,
            uses_provider=False,
        ),
    )
}
