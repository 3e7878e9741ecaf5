"""Clocks that can be set wrong, one for each process, by libfaketime; monotonic clocks stay true.

Debian: `apt-get install libfaketime`. Without it there are no clock faults, and the table says so.
"""

import subprocess
import sys
from pathlib import Path

_PLACES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/local/lib/faketime/libfaketime.so.1")


def find_libfaketime() -> Path | None:
    """The library, where there is one that this Python survives."""
    for pattern in _PLACES:
        for path in sorted(Path("/").glob(pattern.removeprefix("/"))):
            if _works(path):
                return path
    return None


def _works(library: Path) -> bool:
    probe = "import time; print(time.time() > 4e9)"
    env = {"LD_PRELOAD": str(library), "FAKETIME": "+40000d", "DONT_FAKE_MONOTONIC": "1"}
    try:
        said = subprocess.run([sys.executable, "-c", probe], env=env, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return said.returncode == 0 and said.stdout.strip() == b"True"


class Clock:
    """One process's clock. `environment` is what the process must be started with; empty without the library."""

    def __init__(self, folder: Path, name: str, library: Path | None) -> None:
        self._file = folder / f"{name}.clock"
        self._library = library
        if library is not None:
            self.show(0.0)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make it hold."""
        if self._library is None:
            return {}
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            # With it the interpreter's own waits between threads return at once, and two threads eat two cores.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }

    def show(self, offset_s: float) -> None:
        """Step to the true time plus `offset_s`, at once."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{offset_s:+.1f}\n")
        fresh.replace(self._file)  # never a moment with half a file
