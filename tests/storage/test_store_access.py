"""The way to the store: over TLS only to whom the certificate names, with a password that may change, and as a user
that can do no more than its process needs."""

import logging
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from shared.errors import StorageError
from shared.queue import arq_pool, deserialize, serialize
from shared.settings import Settings
from shared.storage import complaints
from shared.storage.api_keys import ApiKeys
from shared.storage.connect import Redis, open_pool, open_redis, storage_errors
from shared.storage.control import Control
from tests.support.certificates import Authority
from tests.support.cluster import until
from tests.support.stores import PASSWORD, USERS, ValkeyProcess, running_valkey, users
from tests.support.tls_front import tls_front


@pytest.fixture(autouse=True)
def _nothing_was_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complaints, "_said_s", {})


@dataclass(frozen=True)
class TlsStore:
    """A store behind TLS, whose certificate is for the name localhost."""

    port: int
    authority: Authority


@pytest.fixture
async def tls(valkey: ValkeyProcess, tmp_path: Path) -> AsyncIterator[TlsStore]:
    """It, on 127.0.0.1."""
    authority = Authority(tmp_path)
    certificate, key = authority.sign("store", "localhost")
    async with tls_front(Path(valkey.url.removeprefix("unix://")), certificate, key) as port:
        yield TlsStore(port, authority)


def over_tls(server: TlsStore, host: str, ca: Path | None = None) -> Settings:
    return Settings(
        redis_url=f"rediss://{host}:{server.port}/0",
        redis_ca_file="" if ca is None else str(ca),
        redis_timeout_s=2.0,
    )


async def test_over_tls_both_clients_work_where_name_and_ca_are_right(tls: TlsStore) -> None:
    settings = over_tls(tls, "localhost", tls.authority.file)
    redis = open_redis(settings.log_store, timeout_s=2.0, max_connections=4)
    arq = arq_pool(settings)
    try:
        assert await redis.ping()
        assert await arq.ping()
        assert await Control(redis).open_count() == 0  # over a connection that our own code reads
    finally:
        await redis.aclose()
        await arq.aclose(close_connection_pool=True)


@pytest.mark.parametrize(("host", "foreign_ca", "why"), [
    ("127.0.0.1", False, "not valid for '127.0.0.1'"),
    ("localhost", True, "unable to get local issuer|self.signed|verify failed"),
])  # fmt: skip
@pytest.mark.parametrize("client", ["ours", "arq's"])
async def test_a_server_that_the_certificate_does_not_name_is_refused_and_the_log_says_why(
    tls: TlsStore, tmp_path: Path, host: str, foreign_ca: bool, why: str, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path, "another") if foreign_ca else tls.authority
    settings = over_tls(tls, host, authority.file)
    redis = open_redis(settings.log_store, timeout_s=2.0, max_connections=4) if client == "ours" else arq_pool(settings)
    try:
        with caplog.at_level(logging.ERROR), pytest.raises(StorageError), storage_errors():
            await redis.ping()
    finally:
        await redis.aclose(close_connection_pool=True)
    assert [record.name for record in caplog.records] == ["shared.storage.complaints"]
    assert f"the certificate of {host}:{tls.port} is not accepted" in caplog.text
    caplog.clear()
    assert any(word in complaints._said_s.popitem()[0].lower() for word in why.lower().split("|"))


async def test_who_does_not_speak_tls_is_not_answered(tls: TlsStore) -> None:
    redis = open_redis(f"redis://localhost:{tls.port}/0", timeout_s=2.0, max_connections=2, retries=0)
    with pytest.raises(RedisConnectionError):
        await redis.ping()
    await redis.aclose()


# -- users


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    """A server with the users of deploy/."""
    server = ValkeyProcess(tmp_path_factory.mktemp("guarded"), with_users=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["api", "worker", "keys", "health"])
async def user(request: pytest.FixtureRequest, guarded: ValkeyProcess) -> AsyncIterator[Redis]:
    """A client that came in as one of them."""
    client = open_redis(guarded.url_of(request.param), timeout_s=2.0, max_connections=2)
    yield client
    await client.aclose()


NOBODYS = [
    "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "CONFIG GET *", "CONFIG SET dir /tmp", "ACL LIST", "ACL SETUSER x on",
    "CLIENT LIST", "CLIENT KILL 1.2.3.4:5", "CLIENT PAUSE 1000", "MONITOR", "SHUTDOWN", "SAVE", "BGSAVE",
    "REPLICAOF NO ONE", "SLAVEOF 1.2.3.4 5", "MODULE LIST", "SCRIPT FLUSH", "SCRIPT KILL", "FUNCTION LIST", "SYNC",
    "PSYNC ? -1", "MIGRATE h 1 k 0 1", "RESTORE k 0 x", "DUMP tailrace:open", "OBJECT FREQ tailrace:open", "SWAPDB 0 1",
    "PSUBSCRIBE *", "SUBSCRIBE other", "PUBLISH other x", "LATENCY RESET", "SLOWLOG GET", "FAILOVER", "CLUSTER INFO",
    "GET other", "SET other x", "DEL other", "RENAME tailrace:open other", "SORT tailrace:open", "RANDOMKEY",
]  # fmt: skip


@pytest.mark.parametrize("command", NOBODYS)
async def test_no_user_can_do_what_no_process_needs(user: Redis, command: str) -> None:
    with pytest.raises(NoPermissionError):
        await user.execute_command(*command.split())  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("command", ["FLUSHALL", "KEYS *", "CONFIG GET *", "GET other", "HGETALL tailrace:keys:x"])
@pytest.mark.parametrize("name", ["api", "worker"])
async def test_a_script_can_do_no_more_than_its_caller(guarded: ValkeyProcess, name: str, command: str) -> None:
    words = ", ".join(f"'{word}'" for word in command.split())
    client = open_redis(guarded.url_of(name), timeout_s=2.0, max_connections=2)
    with pytest.raises(Exception, match=r"(?i)ACL failure|NOPERM|permission|not allowed"):
        await client.eval(f"return redis.call({words})", 0)  # type: ignore[misc]
    await client.aclose()


@pytest.mark.parametrize(("name", "command"), [
    ("worker", "HGETALL tailrace:keys"), ("worker", "HGETALL tailrace:keys:signing"),
    ("worker", "GET tailrace:idem:t:h"),
    ("worker", "HSET tailrace:keys a b"), ("worker", "HGETALL tailrace:keys:used"),
    ("worker", "GET tailrace:keys:version"),
    ("api", "HSET tailrace:keys a b"), ("api", "HDEL tailrace:keys a"), ("api", "INCR tailrace:keys:version"),
    ("api", "SET arq:in-progress:t/j.0 1"), ("api", "GET arq:retry:t/j.0"), ("api", "BRPOP tailrace:wake 1"),
    ("api", "COPY tailrace:{t/j}:log tailrace:{t/j}:log:compact"),
    ("keys", "GET tailrace:{t/j}:meta"), ("keys", "HGETALL tailrace:{t/j}:meta"), ("keys", "HGETALL tailrace:open"),
    ("keys", "GET tailrace:wake"), ("health", "GET tailrace:open"), ("health", "HGETALL tailrace:keys"),
])  # fmt: skip
async def test_a_user_cannot_do_what_others_are_there_for(guarded: ValkeyProcess, name: str, command: str) -> None:
    client = open_redis(guarded.url_of(name), timeout_s=2.0, max_connections=2)
    with pytest.raises(NoPermissionError):
        await client.execute_command(*command.split())  # type: ignore[no-untyped-call]
    await client.aclose()


async def test_an_operator_makes_and_takes_keys_as_the_user_keys(guarded: ValkeyProcess) -> None:
    client = open_redis(guarded.url_of("keys"), timeout_s=2.0, max_connections=2)
    keys = ApiKeys(client)
    await keys.rotate(int(time.time() * 1000), 1000)
    assert len(await keys.signing_keys()) == 1
    assert await keys.all() == []
    assert await keys.revoke("none", 1) is None
    assert await keys.last_used() == {}
    await client.aclose()
    assert not [refusal for refusal in guarded.refusals() if "multi" in refusal]


def test_without_a_user_and_password_nobody_comes_in(tmp_path: Path) -> None:
    server = ValkeyProcess(tmp_path / "valkey")
    acl = tmp_path / "users.acl"
    acl.write_text(users(tmp_path / "passwords"))
    server._embedded.argv.extend(["--aclfile", str(acl)])
    server.url = server.url_of("api")
    server.start()
    try:
        server.url = server.url.replace(f"api:{PASSWORD}@", "")
        with pytest.raises(Exception, match=r"(?i)auth"):
            server.client().ping()
    finally:
        server.stop()
    assert PASSWORD not in acl.read_text()


def test_a_password_that_can_be_guessed_makes_no_users(tmp_path: Path) -> None:
    for user in ("api", "worker", "keys"):
        (tmp_path / f"{user}_password").write_text("short\n")
    script = Path(__file__).parents[2] / "deploy" / "valkey" / "users.sh"
    made = subprocess.run(["sh", script, tmp_path], check=False, capture_output=True, text=True)
    assert made.returncode != 0
    assert "16 characters" in made.stderr
    assert "user" not in made.stdout


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_passwords_file_means_the_same_to_the_store_and_to_who_comes_in(tmp_path: Path, end: str) -> None:
    for user in ("api", "worker", "keys"):
        (tmp_path / f"{user}_password").write_bytes((PASSWORD + end).encode())
    made = subprocess.run(["sh", USERS, tmp_path], check=True, capture_output=True, text=True).stdout
    url, file = "redis://api@127.0.0.1/0", str(tmp_path / "api_password")
    user, password = Settings(redis_url=url, redis_password_file=file).log_store.credentials()
    assert f"user {user} on resetpass #{sha256(password.encode()).hexdigest()} " in made


async def test_a_password_that_is_changed_counts_with_the_next_connection(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    with running_valkey(tmp_path / "valkey") as server:
        admin = server.client()
        admin.acl_setuser("api", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+ping"])
        settings = Settings(redis_url=server.url.replace("://", "://api@"), redis_password_file=str(file))
        redis = open_redis(settings.log_store, timeout_s=2.0, max_connections=1, retries=0)
        assert await redis.ping()
        admin.acl_setuser("api", enabled=True, reset_passwords=True, passwords=["+another"], keys=["*"])
        admin.close()
        await redis.connection_pool.disconnect()
        with pytest.raises(StorageError), storage_errors():
            await redis.ping()
        file.write_text("another")
        assert await redis.ping()
        await redis.aclose()


async def test_a_wrong_password_is_told_in_the_log_and_shown_nowhere(
    guarded: ValkeyProcess, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = "a-wrong-password-of-somebody"
    pool = open_pool(
        guarded.url_of("api").replace(PASSWORD, wrong), timeout_s=2.0, max_connections=1, decode_responses=True
    )
    redis = Redis.from_pool(pool)
    with caplog.at_level(logging.DEBUG), pytest.raises(StorageError) as refused, storage_errors():
        await redis.ping()
    assert "it does not let us in" in caplog.text
    shown = f"{caplog.text} {refused.value!r} {refused.value.__cause__!r} {pool!r} {redis!r} {pool.connection_kwargs!r}"
    assert wrong not in shown
    await redis.aclose()


# -- what stands in the store


def test_the_embedded_server_is_for_its_user_alone(guarded: ValkeyProcess, tmp_path: Path) -> None:
    with running_valkey(tmp_path / "data") as server:
        socket = Path(server.url.removeprefix("unix://"))
        assert socket.stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
        client = server.client()
        until(lambda: bool(client.ping()))
        assert client.config_get("port") == {"port": "0"}
        client.close()


def test_nothing_is_pickled_by_us_or_by_arq(tmp_path: Path) -> None:
    pool = arq_pool(Settings())
    assert (pool.job_serializer, pool.job_deserializer) == (serialize, deserialize)
    root = Path(__file__).parents[2]
    ours = [path for folder in ("api", "worker", "shared", "cli", "clients") for path in (root / folder).rglob("*.py")]
    words = (
        "import pickle",
        "from pickle",
        "import marshal",
        "import shelve",
        "import dill",
        "cloudpickle",
        "yaml.load(",
    )
    assert [path.name for path in ours if any(word in path.read_text() for word in words)] == []
    intake = (root / "worker" / "intake.py").read_text()
    assert "job_serializer=serialize" in intake
    assert "job_deserializer=deserialize" in intake
    with pytest.raises(Exception, match=r"(?i)json|utf"):
        deserialize(b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.")
