"""Afterwards: what many jobs want done is done once for all of them, and a store that is away spoils nothing."""

import asyncio

from shared.errors import RecordError, StorageError
from tests.support.loops import GUARD_S, until
from worker.afterwards import Afterwards


async def test_what_comes_together_is_done_together() -> None:
    done: list[tuple[str, ...]] = []

    async def act(*names: str) -> None:
        done.append(names)

    async with asyncio.timeout(GUARD_S), asyncio.TaskGroup() as group:
        later = Afterwards[str](group, act)
        later.add("a")
        later.add("b")
        await until(lambda: done == [("a", "b")])
        later.add("c")
    assert done == [("a", "b"), ("c",)], "a group that ends waits for what was added"


async def test_what_comes_while_the_store_is_asked_is_not_forgotten() -> None:
    done: list[tuple[str, ...]] = []

    async def act(*names: str) -> None:
        if not done:
            later.add("b")
        done.append(names)
        await asyncio.sleep(0)

    async with asyncio.timeout(GUARD_S), asyncio.TaskGroup() as group:
        later = Afterwards[str](group, act)
        later.add("a")
    assert done == [("a",), ("b",)]


async def test_a_store_that_is_away_ends_nothing_but_the_tidying() -> None:
    asked: list[str] = []

    async def away(*names: str) -> None:
        asked.extend(names)
        raise StorageError("storage_unavailable")

    async with asyncio.timeout(GUARD_S), asyncio.TaskGroup() as group:
        later = Afterwards[str](group, away)
        later.add("a")
        await until(lambda: asked == ["a"])
        later.add("b")
    assert asked == ["a", "b"]


async def test_what_nobody_expects_ends_nothing_but_the_tidying_either() -> None:
    asked: list[str] = []

    async def broken(*names: str) -> None:
        asked.extend(names)
        raise RecordError if len(asked) == 1 else ValueError

    async with asyncio.timeout(GUARD_S), asyncio.TaskGroup() as group:
        later = Afterwards[str](group, broken)
        later.add("a")
        await until(lambda: asked == ["a"])
        later.add("b")
    assert asked == ["a", "b"]
