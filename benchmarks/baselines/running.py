"""A baseline as running processes, and how a reader that has its first tokens comes back to it."""

import contextlib
import http.client
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.baselines.systems import ROOT, Command, Site, System

GUARD_S = 30.0


@dataclass(frozen=True, slots=True)
class Started:
    """A system that listens. `pids`: role → process, whose children count with it."""

    system: System
    site: Site
    pids: dict[str, int]

    def after(self, stream_id: str, tokens: int) -> tuple[str, str | None]:
        """The path, and the Last-Event-ID, of a reader that has the first `tokens` tokens (not all). Reads them."""
        path = self.system.whole(stream_id)
        if tokens == 0:
            return path, None
        if self.system.resume == "chunks":
            return f"{path}?after={tokens}", None
        end = f"@{tokens}:"  # the first that it does not have
        body = read_until(self.site.port, path, end)
        frame = body.rindex("\n\n", 0, body.index(end)) + len("\n\n")
        if self.system.resume == "characters":
            return f"{path}?skip={frame}", None
        ids = re.findall(r"^id: ?(.+)$", body[:frame], re.MULTILINE)
        return path, str(ids[-1]).strip()


def read_until(port: int, path: str, text: str, guard_s: float = GUARD_S) -> str:
    """The body of a GET up to the read that brought `text`. TimeoutError when `guard_s` seconds were not enough."""
    deadline = time.monotonic() + guard_s
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=guard_s)) as client:
        client.request("GET", path, headers={"Accept": "text/event-stream"})
        answer = client.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"GET {path}: {answer.status}")
        parts: list[str] = []
        newest = ""
        while text not in newest:
            read = answer.read1(1 << 20).decode()
            if not read:
                raise RuntimeError(f"GET {path}: it ended without {text!r}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"GET {path}: no {text!r} within {guard_s} s")
            parts.append(read)
            # `text` may begin in the read before; looking through the whole body each time would be quadratic.
            newest = newest[-len(text) :] + read
    return "".join(parts)


@contextlib.contextmanager
def started(system: System, site: Site) -> Iterator[Started]:
    """Its processes for the length of a block; what they say goes to `<role>.log` in the site's folder."""
    with contextlib.ExitStack() as stack:
        commands = system.commands(site)
        processes = {command.role: _start(command, site, stack) for command in commands}
        files = [site.folder / command.ready for command in commands if command.ready]
        _await_listening(site, processes, files)
        yield Started(system, site, {role: process.pid for role, process in processes.items()})


def _start(command: Command, site: Site, stack: contextlib.ExitStack) -> "subprocess.Popen[bytes]":
    log = stack.enter_context((site.folder / f"{command.role}.log").open("wb"))
    process = subprocess.Popen(
        command.argv, cwd=ROOT, env=site.env(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    stack.callback(_end, process)
    return process


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


def _await_listening(site: Site, processes: dict[str, "subprocess.Popen[bytes]"], files: list[Path]) -> None:
    deadline = time.monotonic() + GUARD_S
    while not (_listens(site.port) and all(path.exists() for path in files)):
        for role, process in processes.items():
            if process.poll() is not None:
                raise RuntimeError(f"{role} ended at its start:\n{_said(site.folder / f'{role}.log')}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing listens on port {site.port}")
        time.sleep(0.02)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _said(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]
