"""The last resort: whatever belongs to a run is ended when the program that ran it is gone, killed included.

`python -m chaos.guard <folder>` waits for the end of its standard input, which its parent's end closes, and then kills
every process of this user that was started with the run's folder in its command or its environment.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path


def main(folder: str) -> None:
    """Wait, then end what is left. A run that ended properly has left nothing."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if folder.encode() in told and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
