"""Two network namespaces with a wire between them: a node in one, its readers in the other, who can fall silent.

Nothing of the machine's own network is touched, and all is gone with the two processes that hold the namespaces.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

NODE, READERS = "10.213.7.1", "10.213.7.2"
_HOLD_S = 900
_PAIR = ("drill-node", "type", "veth", "peer", "name", "drill-readers", "netns")


@dataclass(frozen=True)
class Wire:
    """The commands that run a program on either end. `cut`: nothing of what the readers send arrives any more."""

    node: list[str]
    readers: list[str]

    def cut(self) -> None:
        """No FIN, no RST, no ACK: to the node they have vanished."""
        _run(*self.readers, "ip", "route", "replace", "blackhole", f"{NODE}/32")

    def mend(self) -> None:
        """Undo it."""
        _run(*self.readers, "ip", "route", "del", "blackhole", f"{NODE}/32")


@contextmanager
def wire() -> Iterator[Wire]:
    """A wire for the length of a block. RuntimeError where this machine lets nobody make a namespace."""
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    with _holder("unshare", *as_root, "--net") as first:
        enter = ["nsenter", "-t", str(first), "-n", *(["-U", "--preserve-credentials"] if as_root else [])]
        with _holder(*enter, "unshare", "--net") as second:
            there = ["nsenter", "-t", str(second), *enter[3:]]
            ends = ((enter, "drill-node", NODE), (there, "drill-readers", READERS))
            _run(*enter, "ip", "link", "add", *_PAIR, str(second))
            for command, name, address in ends:
                _run(*command, "ip", "addr", "add", f"{address}/30", "dev", name)
                _run(*command, "ip", "link", "set", name, "up")
            yield Wire(enter, there)


@contextmanager
def _holder(*command: str) -> Iterator[int]:
    """A process that holds a namespace open, and nothing else; it ends by itself after a while."""
    held = [*command, "sh", "-c", f"echo ready; exec sleep {_HOLD_S}"]
    with subprocess.Popen(held, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("no network namespace can be made here: this drill needs one")
        try:
            yield process.pid
        finally:
            process.kill()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
