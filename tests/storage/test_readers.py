"""Readers of a key on several nodes: the newest stay, the oldest go, and a dead node's are forgotten."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from api import readers as readers_module
from api.readers import Readers, Seat
from shared.errors import StorageError
from shared.limits import Limits
from shared.storage import keys
from shared.storage.batch import Batcher
from shared.storage.limits import LimitStore, Told
from tests.storage.conftest import Stores
from tests.support.loops import end, running, until


class Reader:
    """Somebody who reads: a departure as far as it matters here."""

    def __init__(self) -> None:
        self.makes_room = False

    def make_room(self) -> None:
        self.makes_room = True


@pytest.fixture(autouse=True)
def tells_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes tell the store without a pause."""
    monkeypatch.setattr(readers_module, "TELL_S", 0.005)


@pytest.fixture
async def store(stores: Stores) -> AsyncIterator[LimitStore]:
    """The control store."""
    batcher = Batcher(stores.redis)
    async with running(batcher.run()):
        yield LimitStore(batcher, lease_s=10.0)


@pytest.fixture
async def hasty(stores: Stores) -> AsyncIterator[LimitStore]:
    """The control store, with leases that lapse within a moment."""
    batcher = Batcher(stores.redis)
    async with running(batcher.run()):
        yield LimitStore(batcher, lease_s=0.5)


def _sit(stack: ExitStack, node: Readers, count: int, *, limits: Limits, job: str = "", key: str = "k") -> list[Reader]:
    sitting = [Reader() for _ in range(count)]
    for place, reader in enumerate(sitting):
        stack.enter_context(node.reading(Seat(key, job or f"job-{place}", limits), reader))  # type: ignore[arg-type]
    return sitting


def _gone(readers: list[Reader]) -> list[bool]:
    return [reader.makes_room for reader in readers]


async def test_at_one_node_the_oldest_of_the_key_goes_at_once(store: LimitStore) -> None:
    node, limits = Readers(store, "a"), Limits(readers=3)
    with ExitStack() as stack:
        first = _sit(stack, node, 3, limits=limits)
        others = _sit(stack, node, 3, limits=limits, key="another")
        assert _gone(first) == [False] * 3
        last = _sit(stack, node, 2, limits=limits)
        assert _gone(first + last) == [True, True, False, False, False]
        assert _gone(others) == [False] * 3


async def test_at_one_job_its_oldest_reader_of_the_key_goes_and_no_other(store: LimitStore) -> None:
    node, limits = Readers(store, "a"), Limits(readers=100, readers_per_job=2)
    with ExitStack() as stack:
        elsewhere = _sit(stack, node, 5, limits=limits)
        at_job = _sit(stack, node, 3, limits=limits, job="x")
        assert _gone(at_job) == [True, False, False]
        assert _gone(elsewhere) == [False] * 5
        foreign = _sit(stack, node, 2, limits=limits, job="x", key="another")
        assert _gone(at_job + foreign) == [True, False, False, False, False]


async def test_who_has_gone_makes_room_for_who_comes(store: LimitStore) -> None:
    node, limits = Readers(store, "a"), Limits(readers=2, readers_per_job=2)
    with ExitStack() as staying:
        stays = _sit(staying, node, 1, limits=limits, job="x")
        for _ in range(5):
            with ExitStack() as stack:
                assert _gone(_sit(stack, node, 1, limits=limits, job="x")) == [False]
        assert _gone(stays) == [False]


async def test_on_all_nodes_together_the_oldest_of_the_key_go(store: LimitStore, stores: Stores) -> None:
    nodes, limits = [Readers(store, name) for name in "ab"], Limits(readers=5)
    with ExitStack() as stack:
        async with running(*(node.run() for node in nodes)):
            old = _sit(stack, nodes[0], 4, limits=limits)
            await until(lambda: _counted(stores, 4))
            young = _sit(stack, nodes[1], 4, limits=limits)
            await until(lambda: sum(_gone(old)) == 3)
            await until(lambda: _counted(stores, 5))
        assert _gone(old + young) == [True] * 3 + [False] * 5


async def test_readers_that_leave_are_counted_no_more_and_leave_no_key(store: LimitStore, stores: Stores) -> None:
    node = Readers(store, "a")
    async with running(node.run()):
        with ExitStack() as stack:
            _sit(stack, node, 3, limits=Limits(readers=5))
            await until(lambda: _counted(stores, 3))
        await until(lambda: _counted(stores, 0))
        await until(lambda: not node._keys)  # the store counts before it has answered


async def test_a_dead_nodes_readers_are_forgotten_after_its_lease(hasty: LimitStore, stores: Stores) -> None:
    dead, living, limits = Readers(hasty, "dead"), Readers(hasty, "living"), Limits(readers=4)
    with ExitStack() as stack:
        dying = asyncio.create_task(dead.run())
        _sit(stack, dead, 3, limits=limits)
        await until(lambda: _counted(stores, 3))
        await end(dying)
        async with running(living.run()):
            reading = _sit(stack, living, 1, limits=limits)
            await until(lambda: _counted(stores, 1))
            reading += _sit(stack, living, 3, limits=limits)
            await until(lambda: _counted(stores, 4))
        assert _gone(reading) == [False] * 4


async def test_a_node_that_was_taken_for_dead_tells_of_all_its_readers_again(hasty: LimitStore, stores: Stores) -> None:
    node = Readers(hasty, "a")
    with ExitStack() as stack:
        async with running(node.run()):
            _sit(stack, node, 3, limits=Limits(readers=5))
            await until(lambda: _counted(stores, 3))
        await until(lambda: _counted(stores, 0))
        async with running(node.run()):
            node._wanted.set()
            await until(lambda: _counted(stores, 3))


async def test_who_comes_and_goes_while_the_store_is_away_is_told_of_when_it_is_back(
    store: LimitStore, stores: Stores
) -> None:
    class Sometimes:
        away, refused = False, 0

        async def readers(self, *told: object) -> Told:
            if self.away:
                self.refused += 1
                raise StorageError("storage_unavailable")
            return await store.readers(*told)  # type: ignore[arg-type]

    sometimes, limits = Sometimes(), Limits(readers=10)
    node = Readers(sometimes, "a")  # type: ignore[arg-type]
    with ExitStack() as stack:
        async with running(node.run()):
            with ExitStack() as leaving:
                reading = _sit(stack, node, 2, limits=limits) + _sit(leaving, node, 1, limits=limits)
                await until(lambda: _counted(stores, 3))
                sometimes.away = True
            _sit(stack, node, 1, limits=limits)
            await until(lambda: sometimes.refused >= 2)
            sometimes.away = False
            await until(lambda: not node._keys["k"].come and not node._keys["k"].gone)
        names = await stores.redis.zrange(keys.readers("k"), 0, -1)
        assert [int(name.partition("/")[2]) for name in names] == [1, 2, 4]
        assert _gone(reading) == [False] * 3


async def _counted(stores: Stores, count: int) -> bool:
    return int(await stores.redis.zcard(keys.readers("k"))) == count
