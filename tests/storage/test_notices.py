"""Notices: whoever listens hears, and is told to look for itself whenever something may have been lost."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio.client import PubSub

from shared.errors import StorageError
from shared.storage.connect import Redis, open_redis
from shared.storage.keys import notice_channel
from shared.storage.notices import Notices
from tests.storage.acts import claim, create, new_job
from tests.storage.conftest import Stores
from tests.support.loops import GUARD_S, end, running, until
from tests.support.stores import ValkeyProcess, running_valkey

Heard = list[str | None]


async def _subscribers(redis: Redis, channel: str) -> int:
    ((_, count),) = await redis.pubsub_numsub(channel)
    return int(count)


async def test_a_subscription_is_confirmed_before_it_returns(stores: Stores) -> None:
    heard: Heard = []
    await stores.notices.subscribe("a", heard.append)
    assert heard == [None]
    assert await stores.redis.publish("a", "1") == 1
    await until(lambda: heard == [None, "1"])


async def test_every_change_of_a_log_is_told_by_its_last_id(stores: Stores) -> None:
    heard: Heard = []
    job = new_job()
    await stores.notices.subscribe(notice_channel(job), heard.append)
    await create(stores, job)
    taken = await claim(stores, job)
    await stores.jobs.cancel(job, "user")
    last = (await stores.log.last_ids([job]))[0]
    await until(lambda: heard == [None, "0-1", f"{taken.epoch}-2", str(last)])


async def test_each_hears_its_own_channel_alone(stores: Stores) -> None:
    heard: dict[str, Heard] = {"a": [], "b": []}
    for channel, into in heard.items():
        await stores.notices.subscribe(channel, into.append)
    await stores.redis.publish("b", "for b")
    await stores.redis.publish("a", "for a")
    await until(lambda: len(heard["a"]) == len(heard["b"]) == 2)
    assert heard == {"a": [None, "for a"], "b": [None, "for b"]}


async def test_who_has_left_hears_nothing_more_and_costs_the_store_nothing(stores: Stores) -> None:
    heard: Heard = []
    await stores.notices.subscribe("a", heard.append)
    await stores.notices.subscribe("b", lambda _: None)

    await stores.notices.unsubscribe("a")

    async def nobody() -> bool:
        return await _subscribers(stores.redis, "a") == 0

    await until(nobody)
    assert await _subscribers(stores.redis, "b") == 1
    assert heard == [None]
    await stores.notices.unsubscribe("a")


async def test_leaving_and_coming_at_once_leaves_a_subscription(stores: Stores) -> None:
    heard: Heard = []
    await stores.notices.subscribe("a", lambda _: None)
    await asyncio.gather(stores.notices.unsubscribe("a"), stores.notices.subscribe("a", heard.append))
    await stores.redis.publish("a", "1")
    await until(lambda: heard[-1:] == ["1"])


@pytest.mark.parametrize("last_leaves_first", [True, False])
async def test_many_come_and_go_and_those_who_stay_hear(stores: Stores, last_leaves_first: bool) -> None:
    heard: dict[str, Heard] = {f"c{n}": [] for n in range(20)}
    async with asyncio.timeout(GUARD_S):
        await asyncio.gather(*(stores.notices.subscribe(channel, into.append) for channel, into in heard.items()))
        leaving = list(heard)[1:][:: -1 if last_leaves_first else 1]
        await asyncio.gather(*(stores.notices.unsubscribe(channel) for channel in leaving))
    await stores.redis.publish("c0", "1")
    await until(lambda: heard["c0"][-1:] == ["1"])
    assert stores.notices._listeners.keys() == {"c0"}
    assert stores.notices._confirmations == {}


@pytest.fixture
async def own_valkey(tmp_path: Path) -> AsyncIterator[ValkeyProcess]:
    """A server that the test may hurt."""
    with running_valkey(tmp_path) as server:
        yield server


@pytest.fixture
async def notices(own_valkey: ValkeyProcess) -> AsyncIterator[Notices]:
    """Notices on that server, over a client without retries, as the processes have it."""
    redis = open_redis(own_valkey.url, timeout_s=2.0, max_connections=4, retries=0)
    made = Notices(redis)
    async with running(made.run()):
        yield made
    await redis.aclose()


async def test_a_cut_connection_is_told_and_notices_flow_again(notices: Notices, own_valkey: ValkeyProcess) -> None:
    heard: dict[str, Heard] = {"a": [], "b": []}
    for channel, into in heard.items():
        await notices.subscribe(channel, into.append)
    with own_valkey.client() as client:
        assert client.execute_command("CLIENT KILL TYPE pubsub") == 1
        await until(lambda: heard == {"a": [None, None], "b": [None, None]})
        client.publish("a", "1")
        client.publish("b", "2")
        await until(lambda: heard == {"a": [None, None, "1"], "b": [None, None, "2"]})
        assert client.pubsub_numsub("a", "b") == [("a", 1), ("b", 1)]


async def test_a_server_that_comes_back_is_subscribed_to_again(notices: Notices, own_valkey: ValkeyProcess) -> None:
    heard: Heard = []
    await notices.subscribe("a", heard.append)
    own_valkey.kill()
    with pytest.raises(StorageError):
        await notices.subscribe("b", lambda _: None, timeout_s=0.05)
    own_valkey.start()
    await until(lambda: heard == [None, None])
    with own_valkey.client() as client:
        client.publish("a", "1")
    await until(lambda: heard == [None, None, "1"])


async def test_a_frozen_server_confirms_nothing_and_holds_nobody_for_ever(
    notices: Notices, own_valkey: ValkeyProcess
) -> None:
    heard: Heard = []
    await notices.subscribe("a", heard.append)
    own_valkey.signal(signal.SIGSTOP)
    with pytest.raises(StorageError):
        await notices.subscribe("b", lambda _: None, timeout_s=0.05)
    own_valkey.signal(signal.SIGCONT)
    await notices.subscribe("b", heard.append)
    with own_valkey.client() as client:
        client.publish("b", "1")
    await until(lambda: heard[-1:] == ["1"])


async def test_listening_outlasts_a_server_that_is_not_there_yet(own_valkey: ValkeyProcess) -> None:
    own_valkey.kill()
    redis = open_redis(own_valkey.url, timeout_s=2.0, max_connections=4, retries=0)
    made = Notices(redis)
    heard: Heard = []
    async with running(made.run(), made.listen("a", heard.append)):
        own_valkey.start()
        await until(lambda: heard[:1] == [None])
    assert made._listeners == {}
    await redis.aclose()


@pytest.fixture
def connecting(notices: Notices, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Set once the connection is being made; to be set to let it be made."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    subscribe = PubSub.subscribe

    async def slow(self: PubSub, *channels: str) -> None:
        begun.set()
        await go_on.wait()
        await subscribe(self, *channels)

    monkeypatch.setattr(PubSub, "subscribe", slow)
    return begun, go_on


async def test_who_comes_while_the_connection_is_made_is_subscribed_too(
    notices: Notices, connecting: tuple[asyncio.Event, asyncio.Event]
) -> None:
    begun, go_on = connecting
    first = asyncio.create_task(notices.subscribe("a", lambda _: None))
    await begun.wait()
    second = asyncio.create_task(notices.subscribe("b", lambda _: None))
    await asyncio.sleep(0)
    go_on.set()
    async with asyncio.timeout(GUARD_S):
        await asyncio.gather(first, second)


async def test_who_leaves_while_the_connection_is_made_leaves_no_subscription(
    notices: Notices, own_valkey: ValkeyProcess, connecting: tuple[asyncio.Event, asyncio.Event]
) -> None:
    begun, go_on = connecting
    staying = asyncio.create_task(notices.subscribe("a", lambda _: None))
    leaving = asyncio.create_task(notices.subscribe("b", lambda _: None))
    await begun.wait()
    await end(leaving)
    gone = asyncio.create_task(notices.unsubscribe("b"))
    await asyncio.sleep(0)
    go_on.set()
    async with asyncio.timeout(GUARD_S):
        await asyncio.gather(staying, gone)
    with own_valkey.client() as client:
        await until(lambda: client.pubsub_numsub("a", "b") == [("a", 1), ("b", 0)])


async def test_who_comes_after_one_that_gave_up_at_once_is_subscribed(notices: Notices) -> None:
    gone = asyncio.create_task(notices.subscribe("a", lambda _: None))
    await asyncio.sleep(0)
    await end(gone)
    async with asyncio.timeout(GUARD_S):
        await notices.unsubscribe("a")
        await notices.subscribe("b", lambda _: None)
    assert notices._listeners.keys() == {"b"}
    assert notices._confirmations == {}


async def test_who_has_left_is_not_remembered(stores: Stores) -> None:
    await stores.notices.subscribe("stays", lambda _: None)
    for number in range(20):
        await stores.notices.subscribe(f"left-{number}", lambda _: None)
        await stores.notices.unsubscribe(f"left-{number}")
    pubsub = stores.notices._pubsub
    assert pubsub is not None
    await until(lambda: (len(pubsub.channels), len(pubsub.pending_unsubscribe_channels)) == (1, 0))
