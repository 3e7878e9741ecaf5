"""The store fixtures: every storage test runs on fakeredis and on a real Valkey, and may leave no key behind."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import fakeredis
import pytest

from shared.jobs import JobKey, JobRequest, Message, new_job_id
from shared.queue import Queue
from shared.storage.batch import Batcher
from shared.storage.compaction import LogCompaction
from shared.storage.connect import Redis, open_redis
from shared.storage.control import Control
from shared.storage.jobs import JobStore
from shared.storage.keys import PERMANENT
from shared.storage.log import EventLog
from shared.storage.notices import Notices
from tests.support.loops import running
from tests.support.stores import ValkeyProcess, running_valkey


@dataclass
class Stores:
    """Everything that storage offers, on one server."""

    redis: Redis
    jobs: JobStore
    log: EventLog
    control: Control
    queue: Queue
    notices: Notices
    compaction: LogCompaction


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    """One real server for the whole run; each test finds it empty."""
    path: Path = tmp_path_factory.mktemp("valkey")
    with running_valkey(path) as server:
        yield server


@pytest.fixture(params=["fakeredis", "valkey"])
async def redis_client(request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    """A client for an empty store; afterwards every key must have a time to live or be on the permanent list."""
    if request.param == "fakeredis":
        client: Redis = fakeredis.FakeAsyncRedis(decode_responses=True)
    else:
        server: ValkeyProcess = request.getfixturevalue("valkey")
        client = open_redis(server.url, timeout_s=5.0, max_connections=16)
        await client.flushall()
    yield client
    left = [key async for key in client.scan_iter() if await client.ttl(key) == -1 and key not in PERMANENT]
    await client.aclose()
    assert left == []


@pytest.fixture
async def stores(redis_client: Redis) -> AsyncIterator[Stores]:
    """The storage layer, its background loops running."""
    batcher = Batcher(redis_client)
    notices = Notices(redis_client)
    event_log = EventLog(redis_client)
    async with running(batcher.run(), notices.run()):
        yield Stores(
            redis_client,
            JobStore(redis_client, batcher),
            event_log,
            Control(redis_client),
            Queue(redis_client, "tailrace:queue"),
            notices,
            LogCompaction(event_log, batcher),
        )


@pytest.fixture
def job() -> JobKey:
    """A fresh job's key."""
    return JobKey("default", new_job_id())


@pytest.fixture
def request_() -> JobRequest:
    """An ordinary request."""
    return JobRequest(provider="scripted", model="demo", messages=[Message("user", "hi")])
