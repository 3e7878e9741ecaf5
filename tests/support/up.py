"""`tailrace up` as a user starts it, for tests: a process, its lines, its children."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.support.cluster import GUARD_S, clean_environment, until


class UpProcess:
    """A running `tailrace up`. `lines` is what it printed."""

    def __init__(self, arguments: list[str], env: dict[str, str], cwd: Path | None = None) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cli.main", "up", *arguments],
            env={**clean_environment(), **env},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    @property
    def output(self) -> str:
        """Everything it printed."""
        return "".join(self.lines)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match in what it prints; AssertionError if it ends or takes too long."""
        until(lambda: re.search(pattern, self.output) or self.process.poll() is not None)
        match = re.search(pattern, self.output)
        assert match is not None, self.output
        return match

    @property
    def url(self) -> str:
        """Where it serves, once it is ready."""
        return self.wait_for(r"ready: (\S+)").group(1)

    def children(self, kind: str = "") -> list[int]:
        """The pids of its living children whose command line contains `kind`."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if parent == self.process.pid and kind in command:
                    found.append(int(entry.name))
        return found

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """End it as Ctrl-C would; its exit status."""
        self.process.send_signal(number)
        status = self.process.wait(GUARD_S)
        self._reading.join(GUARD_S)
        return status


def run_tailrace(
    *command: str, env: dict[str, str] | None = None, cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """One `tailrace …` that ends by itself, on a wide terminal."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "cli.main", *command],
        env={**clean_environment(), "COLUMNS": "1000", **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )


@contextlib.contextmanager
def running_up(*arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> Iterator[UpProcess]:
    """`tailrace up` on a free port for the length of a block, started in the folder `cwd`."""
    up = UpProcess(["--port", "0", *arguments], env or {}, cwd)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                up.stop()
        if up.process.poll() is None:
            children = up.children()
            up.process.kill()
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert up.process.stdout is not None
        up.process.stdout.close()
