"""The node's door: what a client may cost before it has asked for anything, and while it takes nothing."""

import asyncio
import socket
from typing import Any

import pytest

from api import door
from api.protocol import MAX_AHEAD, MAX_HEADERS, MAX_LINE_BYTES
from tests.support.doors import GET, LARGE, node_with, problem_in, rest
from tests.support.loops import GUARD_S, until
from tests.support.serving import address_of

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


@pytest.mark.parametrize("length", [b"Content-Length: 36", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_body_behind_an_upgrade_is_refused_and_never_read_as_a_request(length: bytes, in_pieces: bool) -> None:
    async with node_with() as node:
        upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Type: application/json\r\n" + length
        head = b"POST /jobs HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n\r\n"
        body = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n" + b" "
        answer = await node.exchange(*([head, body] if in_pieces else [head + body]))
        problem = problem_in(answer)
        assert (problem["code"], "Upgrade" in problem["detail"]) == ("invalid_request", True)
        assert node.app.asked == []


async def test_what_follows_an_upgrade_is_answered_as_well() -> None:
    async with node_with() as node:
        upgrade = GET.replace(b"x\r\n\r\n", b"x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n")
        last = GET.replace(b"x\r\n\r\n", b"x\r\nConnection: close\r\n\r\n")
        answers = await node.exchange(upgrade * 2 + GET + last)
        assert answers.count(b"HTTP/1.1 200") == len(node.app.asked) == 4
        await node.exchange(upgrade * (MAX_AHEAD + 20))
        assert len(node.app.asked) <= 5


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


async def test_large_answers_that_are_taken_slowly_have_a_bound_together_and_streams_do_not_pay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "MOST_WAITING_BYTES", 3 * LARGE)
    async with node_with() as node:
        await node.come(GET.replace(b"/ ", b"/jobs/j/events "))
        slow = []
        for asked in range(2, 8):
            client = socket.create_connection(address_of(node.server))
            client.sendall(GET.replace(b"/ ", b"/large "))
            slow.append(client)
            await until(lambda asked=asked: len(node.app.asked) == asked)  # type: ignore[misc]
            await asyncio.sleep(0.05)
        await until(lambda: node.connections == 4)  # the stream, and three of the six
        assert sum(c.transport.get_write_buffer_size() for c in node.server.server_state.connections) <= 3 * LARGE
        slow[-1].settimeout(GUARD_S)
        taken = 0
        while taken < LARGE:  # who came last is served
            taken += len(await asyncio.to_thread(slow[-1].recv, 65_536))
        assert node.app.streams == 1
        for client in slow:
            client.close()
