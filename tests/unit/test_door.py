"""The node's door: what a client may cost before it has asked for anything, and what a full node says."""

import asyncio
import contextlib
import json
import resource
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.door import Door, open_files, raise_file_limit
from api.guard import Guard
from api.protocol import MAX_AHEAD, MAX_HEADERS, MAX_LINE_BYTES
from shared.settings import Settings
from tests.support.loops import GUARD_S, until
from tests.support.serving import address_of, serving

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = 3 * 1024 * 1024


class App:
    """Streams at /jobs/j/events until it is told to stop, sends a large answer at /large, else says what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.stop = asyncio.Event()
        self.streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        message = await receive()
        self.asked.append((scope["path"], message.get("body", b"")))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/jobs/j/events":
            self.streams += 1
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            await self.stop.wait()
        await send({"type": "http.response.body", "body": b"x" * LARGE if scope["path"] == "/large" else b"whole"})


@dataclass
class Node:
    """A server whose clock the test moves."""

    app: App
    door: Door
    server: uvicorn.Server
    clock: list[float]
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self.server.server_state.connections)

    async def come(self, *sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client that has sent so much, and that the node has seen."""
        before = self.connections
        reader, writer = await asyncio.open_connection(*address_of(self.server))
        self.writers.append(writer)
        await until(lambda: self.connections == before + 1)
        for part in sent:
            await self.send(writer, part)
        return reader, writer

    async def send(self, writer: asyncio.StreamWriter, part: bytes) -> None:
        """Send it, and let the node read it."""
        writer.write(part)
        await writer.drain()
        for _ in range(20):
            await asyncio.sleep(0)

    def later(self, seconds: float) -> None:
        """So much time passes, and the door looks."""
        self.clock[0] += seconds
        self.door.sweep(self.connections)

    async def exchange(self, *sent: bytes) -> bytes:
        """All that comes back until the connection ends, however."""
        reader, _ = await self.come(*sent)
        return await rest(reader)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends, however."""
    received = bytearray()
    async with asyncio.timeout(GUARD_S):
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65_536):
                received += piece
    return bytes(received)


def problem_in(answer: bytes) -> dict[str, Any]:
    """The problem that an answer is, whose connection closes."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head.lower()
    assert b"application/problem+json" in head
    problem: dict[str, Any] = json.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % problem["status"])
    assert problem["request_id"].encode() in head
    return problem


@contextlib.asynccontextmanager
async def node_with(most_files: int | None = None, **limits: Any) -> AsyncIterator[Node]:
    """A node with these settings."""
    settings, app, clock = Settings(**limits), App(), [1000.0]
    door = Door(settings, lambda: clock[0], most_files)
    guard = Guard(app, settings.max_body_bytes, settings.body_timeout_s)
    async with serving(guard, door) as server:
        node = Node(app, door, server, clock)
        try:
            yield node
        finally:
            app.stop.set()
            for writer in node.writers:
                writer.transport.abort()
            await until(lambda: node.connections == 0)


# -- heads


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\r\n\r\n", b"G"])
async def test_a_client_that_does_not_ask_in_time_is_cut(sent: bytes) -> None:
    async with node_with(header_timeout_s=10) as node:
        reader, _ = await node.come(sent)
        node.later(9)
        assert node.connections == 1
        node.later(2)
        assert await rest(reader) == b""


async def test_a_head_that_drips_is_timed_as_a_whole() -> None:
    async with node_with(header_timeout_s=10) as node:
        reader, writer = await node.come()
        for byte in GET[:8]:
            await node.send(writer, bytes([byte]))
            node.later(1)
        node.later(3)
        assert await rest(reader) == b""


@pytest.mark.parametrize("drip", [b"\r\n", b"GET / HTTP/1.1\r\nA"])
async def test_a_connection_that_was_answered_and_now_drips_is_timed_again(drip: bytes) -> None:
    async with node_with(header_timeout_s=10) as node:
        reader, writer = await node.come(GET)
        async with asyncio.timeout(GUARD_S):
            assert b"whole" in await reader.readuntil(b"\r\n0\r\n\r\n")
        node.later(60)  # the server's own limit of idle connections is another clock's
        assert node.connections == 1
        await node.send(writer, drip)
        node.later(9)
        assert node.connections == 1
        node.later(2)
        assert await rest(reader) == b""


async def test_a_reader_is_timed_neither_while_it_waits_nor_for_half_a_request_behind_it() -> None:
    async with node_with(header_timeout_s=10) as node:
        reader, writer = await node.come(GET.replace(b"/ ", b"/jobs/j/events "))
        await until(lambda: node.app.streams == 1)
        await node.send(writer, b"GET /next HTTP/1.1\r\n")
        node.later(1000)
        await node.send(writer, b"Host: x\r\n\r\n")
        node.app.stop.set()
        async with asyncio.timeout(GUARD_S):
            await reader.readuntil(b"\r\n0\r\n\r\n")
            await reader.readuntil(b"\r\n0\r\n\r\n")
        assert [path for path, _ in node.app.asked] == ["/jobs/j/events", "/next"]


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("head", [
    b"GET /" + b"p" * (MAX_LINE_BYTES + 1) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * (MAX_HEADERS + 1) + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 33_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a" * 33_000 + b": b\r\n\r\n",
])  # fmt: skip
async def test_a_head_that_is_too_large_is_refused_however_it_comes(head: bytes, in_pieces: bool) -> None:
    async with node_with() as node:
        parts = [head[at : at + 900] for at in range(0, len(head), 900)] if in_pieces else [head]
        answer = await node.exchange(*parts)
        assert problem_in(answer)["code"] == "head_too_large"
        assert node.app.asked == []


async def test_a_head_that_never_ends_is_refused_before_it_fills_the_memory() -> None:
    async with node_with() as node:
        reader, writer = await node.come(b"GET / HTTP/1.1\r\nA: ")
        sent = 0
        while node.connections and sent < 100_000_000:
            writer.write(b"b" * 16_384)
            sent += 16_384
            for _ in range(5):
                await asyncio.sleep(0)
        assert sent < 1_000_000
        assert b"431" in (await rest(reader))[:20] or sent > 33_000


# -- requests that are none


@pytest.mark.parametrize("request_", [
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\nhello!",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\nA: b\n\n",
    b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
])  # fmt: skip
async def test_what_two_readers_could_take_for_two_things_is_refused(request_: bytes) -> None:
    async with node_with() as node:
        answer = await node.exchange(request_)
        assert problem_in(answer)["code"] in ("invalid_request", "head_too_large")
        assert node.app.asked == []


async def test_bytes_behind_a_body_are_no_part_of_it_and_no_request() -> None:
    async with node_with() as node:
        lie = b'POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}{"a": 1}'
        answer = await node.exchange(lie)
        assert answer.count(b"HTTP/1.1 4") == 1
        assert problem_in(answer)["code"] == "invalid_request"
        assert {body for _, body in node.app.asked} <= {b"{}"}


async def test_garbage_behind_a_stream_breaks_it_off_and_becomes_no_part_of_it() -> None:
    async with node_with() as node:
        reader, writer = await node.come(GET.replace(b"/ ", b"/jobs/j/events "))
        await until(lambda: node.app.streams == 1)
        await node.send(writer, b"\x00\x01garbage\r\n\r\n")
        answer = await rest(reader)
        assert b"400" not in answer
        assert not answer.endswith(b"0\r\n\r\n")


async def test_an_upgrade_that_nobody_offers_is_answered_as_any_request() -> None:
    async with node_with() as node:
        asked = GET.replace(b"x\r\n\r\n", b"x\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n")
        reader, writer = await node.come(asked)
        async with asyncio.timeout(GUARD_S):
            assert b"whole" in await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.close()


async def test_a_flood_of_requests_ahead_is_cut_and_a_few_are_answered() -> None:
    async with node_with() as node:
        last = GET.replace(b"x\r\n\r\n", b"x\r\nConnection: close\r\n\r\n")
        few = await node.exchange(GET * MAX_AHEAD + last)
        assert few.count(b"HTTP/1.1 200") == MAX_AHEAD + 1
        node.app.asked.clear()
        await node.exchange(GET * (MAX_AHEAD + 20))
        assert len(node.app.asked) <= 1


async def test_a_large_body_with_half_a_request_behind_it_is_no_large_head() -> None:
    async with node_with() as node:
        reader, writer = await node.come()
        large = b"x" * 200_000
        writer.write(BODY.replace(b"1000", b"200000") + large + GET[:10])
        await until(lambda: len(node.app.asked) == 1)
        await node.send(writer, GET[10:])
        await until(lambda: len(node.app.asked) == 2)
        assert [len(body) for _, body in node.app.asked] == [200_000, 0]
        async with asyncio.timeout(GUARD_S):
            for _ in range(2):
                assert b" 200 " in await reader.readuntil(b"\r\n0\r\n\r\n")


async def test_a_large_head_is_one_behind_another_request_too() -> None:
    async with node_with() as node:
        head = GET.replace(b"x\r\n\r\n", b"x\r\nA: " + b"b" * 40_000 + b"\r\n\r\n")
        for parts in ([GET + head], [GET + head[:39_000], head[39_000:]]):
            answers = await node.exchange(*parts)
            assert b"HTTP/1.1 200" in answers
            assert b"HTTP/1.1 431" in answers
        assert {path for path, _ in node.app.asked} == {"/"}
        assert len(node.app.asked) == 2


# -- bodies


BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
CHUNKED = BODY.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked")


@pytest.mark.parametrize("sent", [BODY, BODY + b"{", CHUNKED, CHUNKED + b"1\r\n{\r\n"])
async def test_a_body_that_does_not_come_in_time_is_answered(sent: bytes) -> None:
    async with node_with(body_timeout_s=0.05) as node:
        answer = await node.exchange(sent)
        assert problem_in(answer)["code"] == "request_timeout"
        assert node.app.asked == []


async def test_a_body_that_is_promised_too_large_is_not_asked_for() -> None:
    async with node_with() as node:
        expecting = BODY.replace(b"1000\r\n", b"99999999\r\nExpect: 100-continue\r\n")
        answer = await node.exchange(expecting)
        assert b"100 Continue" not in answer
        assert problem_in(answer)["code"] == "payload_too_large"


async def test_a_body_of_a_sane_size_is_asked_for() -> None:
    async with node_with() as node:
        reader, writer = await node.come(BODY.replace(b"1000\r\n", b"2\r\nExpect: 100-continue\r\n"))
        async with asyncio.timeout(GUARD_S):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"{}")
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        assert node.app.asked == [("/", b"{}")]


async def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    async with node_with(max_body_bytes=1024) as node:
        reader, writer = await node.come(CHUNKED)
        writer.write((b"10000\r\n" + b"x" * 65_536 + b"\r\n") * 16)  # a megabyte, of which most is still on its way
        answer = await rest(reader)
        assert problem_in(answer)["code"] == "payload_too_large"


# -- answers that nobody takes


async def test_a_client_that_takes_nothing_of_a_large_answer_is_cut_and_one_that_takes_some_is_not() -> None:
    async with node_with(write_timeout_s=20) as node:
        small = socket.create_connection(address_of(node.server))
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        small.sendall(GET.replace(b"/ ", b"/large "))
        small.setblocking(False)
        loop = asyncio.get_running_loop()
        await until(lambda: bool(node.app.asked))
        (connection,) = node.server.server_state.connections
        size: Any = connection.transport.get_write_buffer_size
        await until(lambda: size() > 1_000_000)
        for _ in range(3):
            taken, before = 0, size()
            while size() > before - 100_000:
                taken += len(await loop.sock_recv(small, 65_536))
            node.later(31)
            assert node.connections == 1
        assert not connection.transport.is_closing()
        node.later(31)
        assert connection.transport.is_closing()  # later on the kernel would give up as well
        await until(lambda: node.connections == 0)
        small.close()


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
