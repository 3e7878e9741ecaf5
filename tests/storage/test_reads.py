"""Reads that are joined: each caller gets its own answers, none older than its question, and no caller waits twice."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.storage.reads import AT_ONCE, Command, Joined
from tests.storage.conftest import Stores
from tests.support.loops import end, running, until


class Line:
    """A store that answers when it is told to. `asked`: the commands of each exchange."""

    def __init__(self) -> None:
        self.asked: list[list[Command]] = []
        self.answers: asyncio.Queue[Exception | None] = asyncio.Queue()

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        self.asked.append(list(commands))
        error = await self.answers.get()
        if error is not None:
            raise error
        return [command[0] for command in commands]

    async def aclose(self) -> None:
        """Nothing is held."""


@pytest.fixture
async def line() -> Line:
    """A line to hold up."""
    return Line()


def _on(line: Line, redis: Any) -> Joined:
    joined = Joined(redis)
    joined._line = line  # type: ignore[assignment]
    return joined


def _ask(joined: Joined, *names: str) -> "asyncio.Task[list[Any]]":
    return asyncio.create_task(joined.exchange([(name,) for name in names]))


async def test_each_caller_gets_its_own_answers_whoever_leaves_and_whatever_is_refused(stores: Stores) -> None:
    for number in range(3 * AT_ONCE):
        await stores.redis.set(f"k{number}", number, ex=60)
    joined = Joined(stores.redis)
    async with running(joined.run()):
        asked = [
            asyncio.create_task(
                joined.exchange([("GET", f"k{number}"), ("LLEN", f"k{number}"), ("EXISTS", f"k{number}")])
            )
            for number in range(3 * AT_ONCE)
        ]
        await asyncio.sleep(0)
        gone = asked.pop(5)
        await end(gone)
        for task in asked:
            value, refused, there = await task
            assert (value, there) == (str(asked.index(task) + (asked.index(task) >= 5)), 1)
            assert isinstance(refused, ResponseError)


async def test_who_comes_during_an_exchange_is_asked_for_in_the_next_with_all_others(
    stores: Stores, line: Line
) -> None:
    joined = _on(line, stores.redis)
    async with running(joined.run()):
        tasks = [_ask(joined, "a")]
        await until(lambda: len(line.asked) == 1)
        tasks += [_ask(joined, "a"), _ask(joined, "b", "c")]
        await asyncio.sleep(0)
        line.answers.put_nowait(None)
        line.answers.put_nowait(None)
        assert [await task for task in tasks] == [["a"], ["a"], ["b", "c"]]
    assert line.asked == [[("a",)], [("a",), ("b",), ("c",)]]


@pytest.mark.parametrize("error", [RedisTimeoutError(), RedisConnectionError(), RuntimeError("odd")])
async def test_a_store_that_is_away_is_waited_for_once_by_all_and_asked_again_by_the_next(
    stores: Stores, line: Line, error: Exception
) -> None:
    joined = _on(line, stores.redis)
    async with running(joined.run()):
        tasks = [_ask(joined, "a")]
        await until(lambda: len(line.asked) == 1)
        tasks.append(_ask(joined, "b"))
        await asyncio.sleep(0)
        line.answers.put_nowait(error)
        for task in tasks:
            with pytest.raises(RedisConnectionError):
                await task
        line.answers.put_nowait(None)
        assert await _ask(joined, "c") == ["c"]


async def test_who_still_waits_when_the_process_ends_is_let_go(stores: Stores, line: Line) -> None:
    joined = _on(line, stores.redis)
    async with running(joined.run()):
        tasks = [_ask(joined, "a")]
        await until(lambda: len(line.asked) == 1)
        tasks.append(_ask(joined, "b"))
        await asyncio.sleep(0)
    await until(lambda: all(task.cancelled() for task in tasks))
