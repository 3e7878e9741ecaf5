"""What breaks into a stream from outside: its client goes, or its node leaves. On real connections, by either server's
way to say so."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from starlette.types import Message, Receive, Scope, Send

from api.connection import wire_of
from api.departure import Departure, Leave, Leaving
from tests.support.loops import GUARD_S, end, until
from tests.support.serving import address_of, serving

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class App:
    """Waits in a departure, for ever if it may, then answers whether the client was gone."""

    foreign: bool = False
    leaving: Leaving = field(default_factory=lambda: Leaving(0.0))
    waiting: int = 0
    gone: list[bool] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        self.waiting += 1
        try:
            wire = None if self.foreign else wire_of(scope)
            wire_of(scope).flow.pause_reading()  # type: ignore[union-attr]  # as a large body leaves it
            async with Departure(self.leaving, wire, receive) as departure:
                await asyncio.get_running_loop().create_future()
            self.gone.append(departure.client_gone)
        finally:
            self.waiting -= 1
        body = scope["path"].encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body, "more_body": False})


@asynccontextmanager
async def served(app: App) -> AsyncIterator[Callable[[bytes], "asyncio.Task[bytes]"]]:
    """The app on a port; call with a request for a task that reads until the server closes, or that is cancelled."""
    tasks = []
    async with serving(app) as server:

        async def ask(request: bytes) -> bytes:
            reader, writer = await asyncio.open_connection(*address_of(server))
            try:
                writer.write(request)
                return await reader.read()
            finally:
                writer.close()

        def asked(request: bytes) -> "asyncio.Task[bytes]":
            tasks.append(asyncio.create_task(ask(request)))
            return tasks[-1]

        try:
            yield asked
        finally:
            await end(*tasks)


@pytest.mark.parametrize("foreign", [False, True])
async def test_a_client_that_goes_ends_the_block_also_where_nobody_read_on(foreign: bool) -> None:
    app = App(foreign)
    async with served(app) as ask:
        client = ask(GET)
        await until(lambda: app.waiting == 1)
        await end(client)
        await until(lambda: app.waiting == 0)
    assert app.gone == [True]
    assert not app.leaving.streams


@pytest.mark.parametrize("foreign", [False, True])
async def test_a_node_that_leaves_ends_the_blocks_of_all_and_of_who_comes_late(foreign: bool) -> None:
    app = App(foreign)
    async with served(app) as ask, asyncio.timeout(GUARD_S):
        clients = [ask(GET.replace(b"x\r\n\r\n", b"x\r\nConnection: close\r\n\r\n")) for _ in range(3)]
        await until(lambda: app.waiting == 3)
        app.leaving.begin()
        clients.append(ask(GET.replace(b"x\r\n\r\n", b"x\r\nConnection: close\r\n\r\n")))
        answers = [await client for client in clients]
    assert app.gone == [False] * 4
    assert all(answer.endswith(b"\r\n\r\n1\r\n/\r\n0\r\n\r\n") for answer in answers)
    assert not app.leaving.streams


async def test_a_client_that_goes_is_not_kept_until_its_turn_to_leave() -> None:
    app = App(leaving=Leaving(10 * GUARD_S))
    async with served(app) as ask:
        client = ask(GET)
        await until(lambda: app.waiting == 1)
        app.leaving.begin()
        await end(client)
        await until(lambda: app.gone == [True])


async def test_a_cancellation_from_elsewhere_is_not_taken_for_a_departure() -> None:
    leaving, reached = Leaving(0.0), asyncio.Event()

    async def receive() -> dict[str, str]:
        reached.set()
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def block() -> None:
        async with Departure(leaving, None, receive):
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(block())
    await reached.wait()
    watching = asyncio.all_tasks()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(other.done() for other in watching - {asyncio.current_task()})


async def test_requests_sent_ahead_are_answered_in_their_order() -> None:
    app = App()
    ahead = b"".join(GET.replace(b"/ ", b"/%d " % number, 1) for number in range(3))
    async with served(app) as ask, asyncio.timeout(GUARD_S):
        app.leaving.begin()
        answer = await ask(
            ahead + GET.replace(b"/ ", b"/3 ", 1).replace(b"x\r\n\r\n", b"x\r\nConnection: close\r\n\r\n")
        )
    assert [line for line in answer.split(b"\r\n") if line.startswith(b"/")] == [b"/0", b"/1", b"/2", b"/3"]


async def test_a_stream_that_is_broken_into_a_moment_before_its_token_ends_has_ended_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never() -> Message:
        await asyncio.Event().wait()
        return {}

    now_s = 1_000_000.0
    monkeypatch.setattr("api.departure.time.time", lambda: now_s)
    async with asyncio.timeout(GUARD_S), Departure(Leaving(0.0), None, never, Leave(now_s + 0.002)) as departure:
        await never()
    assert departure.expired
    async with Departure(Leaving(0.0), None, never, Leave(now_s + 60)) as departure:
        pass
    assert not departure.expired
