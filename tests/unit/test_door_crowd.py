"""The node's door: how many come in, what a full node says, and that nothing is kept of who has gone."""

import asyncio
import resource

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api import door
from api.door import open_files, raise_file_limit
from tests.support.doors import GET, node_with, problem_in
from tests.support.loops import GUARD_S, until
from tests.support.serving import address_of

BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"


# -- how many


async def test_a_full_node_says_so_at_once_and_its_readers_do_not_notice() -> None:
    async with node_with(max_connections=2) as node:
        readers = [(await node.come(GET.replace(b"/ ", b"/jobs/j/events ")))[0] for _ in range(2)]
        await until(lambda: node.app.streams == 2)

        answer = await node.exchange(BODY.replace(b"1000", b"2") + b"{}")

        assert problem_in(answer)["code"] == "node_full"
        assert b"\r\nretry-after: 2" in answer.lower()
        assert node.app.streams == len(node.app.asked) == 2
        await until(lambda: not node.door._surplus)
        node.app.stop.set()
        async with asyncio.timeout(GUARD_S):
            for reader in readers:
                assert b"whole" in await reader.readuntil(b"\r\n0\r\n\r\n")


async def test_a_reader_that_finds_its_node_full_is_closed_without_an_answer() -> None:
    """EventSource gives up for ever on any answer but 200."""
    async with node_with(max_connections=1) as node:
        await node.come(GET)
        assert await node.exchange(GET.replace(b"/ ", b"/jobs/j/events ")) == b""
        assert node.app.streams == 0


async def test_a_full_node_still_says_that_it_lives() -> None:
    async with node_with(max_connections=1) as node:
        await node.come(GET)
        reader, _ = await node.come(GET.replace(b"/ ", b"/healthz "))
        async with asyncio.timeout(GUARD_S):
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")


async def test_when_one_has_gone_the_next_is_welcome() -> None:
    async with node_with(max_connections=1) as node:
        _, first = await node.come(GET)
        first.close()
        await until(lambda: node.connections == 0)
        reader, _ = await node.come(GET)
        async with asyncio.timeout(GUARD_S):
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")


async def test_those_who_come_too_late_and_say_nothing_are_few() -> None:
    async with node_with(max_connections=10) as node:
        for _ in range(10):
            await node.come()
        silent = [await asyncio.open_connection(*address_of(node.server)) for _ in range(60)]
        await until(lambda: sum(reader.at_eof() or reader.exception() is not None for reader, _ in silent) >= 44)
        assert node.connections <= 26
        node.writers += [writer for _, writer in silent]


async def test_at_four_fifths_of_its_files_a_node_takes_nobody_else() -> None:
    # 20 beside what is open: room for connections up to 80 %.
    most = (open_files() + 20) * 100 // 80
    async with node_with(most_files=most) as node:
        node.door.sweep(node.connections)
        refused = 0
        while not refused:
            assert node.connections < 30
            node.door.sweep(node.connections)  # the clients' ends are files of this process, too
            reader, _ = await node.come(GET)
            async with asyncio.timeout(GUARD_S):
                refused = b" 503 " in await reader.readuntil(b"\r\n\r\n")
        assert open_files() * 100 <= most * 80 + 300


async def test_a_node_that_cannot_count_its_files_any_more_lets_nobody_in_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a file left the list of files cannot be read, and some systems have none."""
    monkeypatch.setattr(door, "open_files", lambda: 0)
    async with node_with(most_files=5) as node:
        for _ in range(4):
            await node.come(GET)
            node.door.sweep(node.connections)
        assert problem_in(await node.exchange(GET))["code"] == "node_full"


def test_the_limit_of_files_is_raised_to_what_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        assert raise_file_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_reader_weighs_no_name_more_than_the_servers_own_connection() -> None:
    """The 31st name in such an object costs it a table of its own, 1.4 KB a reader."""
    async with node_with() as node:
        await node.come(GET.replace(b"/ ", b"/jobs/j/events "))
        await until(lambda: node.app.streams == 1)
        (connection,) = node.server.server_state.connections
        plain = HttpToolsProtocol(node.server.config, node.server.server_state, {})
        assert vars(connection).keys() == vars(plain).keys() | {"url"}  # which uvicorn adds with a request


async def test_nothing_is_kept_of_a_connection_that_waits_or_has_gone() -> None:
    async with node_with() as node:
        _, reader = await node.come(GET.replace(b"/ ", b"/jobs/j/events "))
        await until(lambda: node.app.streams == 1)
        door = node.door
        assert (door._heads, door._stuck, door._surplus) == ({}, {}, set())
        await node.come(b"GET /")
        assert len(door._heads) == 1
        for writer in (*node.writers, reader):
            writer.close()
        await until(lambda: node.connections == 0)
        assert (door._heads, door._stuck, door._surplus) == ({}, {}, set())
