"""Compiles the native tools into `.bench/bin`, each anew when a source is younger than it: `build()`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent
BINARIES = SOURCES.parent.parent / ".bench" / "bin"
TOOLS = ("fake_provider", "load", "send_floor")
FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror")
COMPILE_TIMEOUT_S = 120


class CannotBuildError(RuntimeError):
    """The tools could not be compiled here; the sentence says what is missing."""


def build() -> Path:
    """The folder that holds the tools, compiled where they are older than their source."""
    stale = [tool for tool in TOOLS if _is_stale(tool)]
    if stale:
        compiler = _compiler()
        BINARIES.mkdir(parents=True, exist_ok=True)
        for tool in stale:
            _compile(compiler, tool)
    return BINARIES


def _is_stale(tool: str) -> bool:
    binary = BINARIES / tool
    # Any header counts for all: they are few, and a compile takes a second.
    sources = [SOURCES / f"{tool}.c", *SOURCES.glob("*.h")]
    return not binary.exists() or binary.stat().st_mtime <= max(source.stat().st_mtime for source in sources)


def _compiler() -> str:
    if not sys.platform.startswith("linux"):
        raise CannotBuildError("the benchmarks' native tools are made of epoll and timerfd: they need Linux")
    compiler = shutil.which("cc")
    if compiler is None:
        raise CannotBuildError("no C compiler (cc): install one (Debian, Ubuntu: apt-get install gcc libc6-dev)")
    return compiler


def _compile(compiler: str, tool: str) -> None:
    # Beside its place and then into it: another run may be starting the old one at this moment.
    fresh = BINARIES / f"{tool}.{os.getpid()}"
    command = [compiler, *FLAGS, "-o", str(fresh), str(SOURCES / f"{tool}.c"), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise CannotBuildError(f"{tool}.c does not compile:\n{done.stderr}")
        fresh.replace(BINARIES / tool)
    finally:
        fresh.unlink(missing_ok=True)


if __name__ == "__main__":
    print(build())
