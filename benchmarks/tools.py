"""The compiled tools: the fake provider as a process, and the load tool as one call that answers in figures.

They are C because they must not be the bottleneck (benchmarks/native; `make bench` prints their own cost).
"""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.native.build import build

MAX_S = 300.0
"""No tool runs longer, whatever it is asked for."""


@dataclass(frozen=True, slots=True)
class Route:
    """How the load tool speaks to a system. `get`: `{id}` stands for the job's id; None: the POST's answer streams."""

    port: int
    post: str
    body: dict[str, Any]
    get: str | None = None
    headers: tuple[str, ...] = ()


def fake(tokens: int, gap_us: int, first_us: int = 0, *, jitter_percent: int = 0) -> str:
    """The model name that asks the fake provider for so many tokens, so many µs apart, each by up to so much of that
    later than its time."""
    jitter = f"/j={jitter_percent}" if jitter_percent else ""
    return f"fake/n={tokens}/d={gap_us}/f={first_us}/b=1{jitter}"


def tool(name: str) -> Path:
    """The path of a compiled tool, built where it is older than its source."""
    return build() / name


@contextlib.contextmanager
def fake_provider() -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Its port and process; it ends when its stdin is closed."""
    with subprocess.Popen(
        [str(tool("fake_provider")), "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process
        finally:
            process.stdin.close()


class Load:
    """One run of the load tool. `process.stdin` held open keeps `idle` readers attached."""

    def __init__(
        self, mode: str, route: Route, *, tokens: int, timeout_s: float, **options: float | str | bool
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tailrace-bench-")
        body = Path(self._folder.name) / "body.json"
        body.write_text(json.dumps(route.body))
        command = [str(tool("load")), mode, "--port", str(route.port), "--tokens", str(tokens)]
        command += ["--timeout-s", str(min(timeout_s, MAX_S)), *_flags(options)]
        command += [part for header in route.headers for part in ("--header", header)]
        if "url_path" not in options:
            command += ["--post", route.post, "--body", str(body)]
            command += ["--get", route.get] if route.get else []
        self._timeout_s = timeout_s
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def stdout(self) -> IO[str]:
        """What it says before its figures."""
        assert self.process.stdout is not None
        return self.process.stdout

    def end(self) -> dict[str, Any]:
        """Tell one that holds its readers to let go; its figures. ValueError or IndexError where it gives none."""
        said, _ = self.process.communicate("", timeout=30)
        found: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
        return found

    def result(self) -> dict[str, Any]:
        """Its figures, once it has ended; RuntimeError with its own words where it gives none."""
        try:
            said, complaint = self.process.communicate(timeout=self._timeout_s + 10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            said, complaint = self.process.communicate()
        self._folder.cleanup()
        try:
            found: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
        except (IndexError, ValueError):
            raise RuntimeError(f"load gave no figures: {said[-500:]} {complaint[-2000:]}") from None
        return found


def _flags(options: dict[str, float | str | bool]) -> Iterator[str]:
    """`ramp_s=2` as `--ramp-s 2`; True as the bare flag, False as nothing."""
    for name, value in options.items():
        if value is not False:
            yield f"--{name.replace('_', '-')}"
        if not isinstance(value, bool):
            yield str(value)
