"""Stores for tests: the embedded Valkey as a process of its own, fakeredis, and the check for keys left behind."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from cli.valkey import EmbeddedValkey, embedded_valkey
from shared.storage.keys import PERMANENT

STARTUP_GUARD_S = 20.0


class ValkeyProcess:
    """A real Valkey that a test may kill, freeze and start again on the same data."""

    def __init__(self, data_dir: Path) -> None:
        self._embedded: EmbeddedValkey = embedded_valkey(data_dir)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = self._embedded.url

    def start(self) -> None:
        """Start it and return once it answers."""
        self._process = subprocess.Popen(
            self._embedded.argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        until = time.monotonic() + STARTUP_GUARD_S
        while not self._answers():
            assert self._process.poll() is None, "the server ended at its start"
            assert time.monotonic() < until, "the server did not answer"
            time.sleep(0.01)

    def _answers(self) -> bool:
        with contextlib.closing(self.client()) as client, contextlib.suppress(redis.exceptions.RedisError):
            return bool(client.ping())
        return False

    def client(self) -> "redis.Redis":
        """A plain synchronous client."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def signal(self, number: signal.Signals) -> None:
        """Send the server a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def stop(self) -> None:
        """End it, however it stands."""
        if self._process is not None and self._process.poll() is None:
            self.kill()


@contextlib.contextmanager
def running_valkey(data_dir: Path) -> Iterator[ValkeyProcess]:
    """A Valkey for the length of a block."""
    server = ValkeyProcess(data_dir)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def keys_without_end(client: "redis.Redis") -> list[str]:
    """Every key that will never expire and is not on the list of permanent ones (DESIGN §2, invariant 7)."""
    return sorted(key for key in client.scan_iter(count=1000) if client.ttl(key) == -1 and key not in PERMANENT)
