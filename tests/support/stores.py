"""Stores for tests: the embedded Valkey as a process of its own, with the users of deploy/, and the check for keys left
behind."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from cli.valkey import EmbeddedValkey, embedded_valkey
from shared.events import EventId
from shared.storage.keys import PERMANENT
from shared.storage.merged import MERGED, expand

STARTUP_GUARD_S = 20.0


USERS = Path(__file__).parents[2] / "deploy" / "valkey" / "users.sh"
PASSWORD = "a-password-of-some-length"
"""Of each of the store's users."""
_ALL_RIGHTS = "user default on nopass ~* &* +@all"


def users(folder: Path) -> str:
    """What deploy/ makes of passwords in a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for user in ("api", "worker", "keys"):
        (folder / f"{user}_password").write_text(PASSWORD + "\n")
    return subprocess.run(["sh", USERS, folder], check=True, capture_output=True, text=True).stdout


class ValkeyProcess:
    """A real Valkey that a test may kill, freeze and start again on the same data. `with_users`: those of deploy/; the
    test itself may do everything, as nobody in particular."""

    def __init__(self, data_dir: Path, *, with_users: bool = False) -> None:
        self._embedded: EmbeddedValkey = embedded_valkey(data_dir)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = self._embedded.url
        if with_users:
            shipped = users(data_dir / "passwords").splitlines()
            (data_dir / "users.acl").write_text("\n".join([_ALL_RIGHTS, *shipped[1:]]) + "\n")
            self._embedded.argv.extend(["--aclfile", str(data_dir / "users.acl")])

    def url_of(self, user: str) -> str:
        """The URL by which one of the store's users comes in."""
        scheme, _, place = self.url.partition("://")
        return f"{scheme}://{user}:{PASSWORD}@{place}"

    def refusals(self) -> list[str]:
        """What the users wanted and have no right to, such as `api: keys (command)`."""
        with contextlib.closing(self.client()) as client, contextlib.suppress(redis.exceptions.RedisError):
            rows: Any = client.acl_log()
            return sorted({f"{row['username']}: {row['object']} ({row['reason']}, {row['context']})" for row in rows})
        return []

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


async def everything_in(redis: Any) -> str:
    """All that a store holds, as text: keys, and values of every type; merged entries of logs as they were before."""
    found: list[str] = []
    async for key in redis.scan_iter(count=1000):
        found.append(str(key))
        match await redis.type(key):
            case "string":
                found.append(str(await redis.get(key)))
            case "hash":
                found += [f"{name} {value}" for name, value in (await redis.hgetall(key)).items()]
            case "list":
                found += map(str, await redis.lrange(key, 0, -1))
            case "set":
                found += map(str, await redis.smembers(key))
            case "zset":
                found += map(str, await redis.zrange(key, 0, -1))
            case "stream":
                for entry_id, fields in await redis.xrange(key):
                    found += [f"{entry_id} {field} {value}" for field, value in fields.items()]
                    found += _merged(entry_id, fields)
            case "none":
                pass  # gone since
            case other:
                raise AssertionError(f"a key of type {other}: {key}")
    return "\n".join(found)


def _merged(entry_id: str, fields: dict[str, str]) -> list[str]:
    return [
        str(entry.event)
        for field, value in fields.items()
        if field[:1] in MERGED
        for entry in expand(EventId.parse(entry_id), field, value)
    ]
