"""The gateway's promises to readers and to those who pay for tokens, whatever the nodes behind it do."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.settings import Settings
from tests.support.fake_node import HANG_UP, End, Reply, a_job, answer, events, frame
from tests.support.gateway import Gateway, repeat, running_gateway
from tests.support.loops import until

pytestmark = pytest.mark.needs_nginx

EVENTS = "/jobs/j1/events"
GET_EVENTS = f"GET {EVENTS} HTTP/1.1\nHost: tailrace\nConnection: close\n\n"
TOKEN = frame("token", "7-3", text="Hello")
SECRET = "a-token-that-nobody-may-read"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """The gateway, in front of the nodes that the test adds."""
    async with running_gateway(tmp_path) as gateway:
        yield gateway


async def test_events_that_no_node_can_send_are_not_answered_at_all(gateway: Gateway) -> None:
    async def ask() -> None:
        assert await gateway.exchange(GET_EVENTS) == b""

    await ask()
    node = await gateway.add_node()
    node.on(f"GET {EVENTS}", HANG_UP)
    await repeat(ask, until=lambda: bool(node.asked))


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/jobs"), ("GET", "/jobs/j1"), ("POST", "/chat/stream"), ("POST", "/langchain/stream")],
)
async def test_other_calls_are_told_when_to_come_back(gateway: Gateway, method: str, path: str) -> None:
    refusal = await gateway.http.request(method, path, json={} if method == "POST" else None)

    assert refusal.status_code == 503
    assert refusal.headers["content-type"] == "application/problem+json"
    assert int(refusal.headers["retry-after"]) > 0
    assert refusal.json()["retryable"] is True
    assert refusal.json()["request_id"] == refusal.headers["x-request-id"]


async def test_a_nodes_metrics_are_not_for_those_outside(gateway: Gateway) -> None:
    node = await gateway.add_node()

    refusal = await gateway.http.get("/metrics")

    assert (refusal.status_code, refusal.json()["code"]) == (404, "no_such_route")
    assert refusal.headers["content-type"] == "application/problem+json"
    assert node.asked == []


@pytest.mark.parametrize("path", ["/jobs", "/chat/stream"])
async def test_a_post_that_a_node_may_have_taken_is_never_sent_again(gateway: Gateway, path: str) -> None:
    nodes = [await gateway.add_node(), await gateway.add_node()]
    for node in nodes:
        node.on(f"POST {path}", HANG_UP)

    # Answered, not closed: a browser would send it again by itself.
    assert (await gateway.http.post(path, json={})).status_code == 503
    assert sum(len(node.asked) for node in nodes) == 1


async def test_a_post_goes_to_another_node_where_one_does_not_listen(gateway: Gateway) -> None:
    node = await gateway.add_node()
    node.on("POST /jobs", answer(a_job(), 202))
    gateway.dns.table["api"].append(gateway.network.address())

    async def post() -> None:
        assert (await gateway.http.post("/jobs", json={})).status_code == 202

    await repeat(post, until=lambda: any(", " in entry["node"] for entry in gateway.nginx.requests("/jobs")))


async def test_events_come_from_another_node_where_one_hangs_up(gateway: Gateway) -> None:
    leaving, staying = await gateway.add_node(), await gateway.add_node()
    leaving.on(f"GET {EVENTS}", HANG_UP)
    staying.on(f"GET {EVENTS}", events(TOKEN))

    async def read() -> None:
        assert TOKEN in await gateway.exchange(GET_EVENTS)

    await repeat(read, until=lambda: bool(leaving.asked))


@pytest.mark.parametrize(("path", "headers"), [(EVENTS, {}), ("/jobs", {"x-accel-buffering": "no"})])
async def test_events_pass_although_the_answer_never_ends(gateway: Gateway, path: str, headers: dict[str, str]) -> None:
    node = await gateway.add_node()
    reply = events(b": tailrace\n", TOKEN, b": ka\n", end=End.OPEN)
    node.on(f"GET {path}", Reply(200, {**reply.headers, **headers}, reply.parts, reply.end))
    received = b""

    async with gateway.http.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as response:
        async for piece in response.aiter_raw():
            received += piece
            if received.endswith(b": ka\n"):
                break

    assert received == b"".join(reply.parts)
    assert headers.items() <= response.headers.items()  # another proxy may stand before this one


@pytest.mark.parametrize(("end", "clean"), [(End.CLEAN, True), (End.BROKEN, False), (End.ABORTED, False)])
async def test_a_stream_that_broke_does_not_look_like_one_that_ended(gateway: Gateway, end: End, clean: bool) -> None:
    node = await gateway.add_node()
    node.on(f"GET {EVENTS}", events(TOKEN, end=end))

    received = await gateway.exchange(GET_EVENTS)

    assert received.startswith(b"HTTP/1.1 200") or end is End.ABORTED  # a reset may take the head with it
    assert received.endswith(b"\r\n0\r\n\r\n") is clean


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_as_large_as_a_node_takes_passes_and_no_larger_one(gateway: Gateway, chunked: bool) -> None:
    node = await gateway.add_node()
    node.on("POST /jobs", answer(a_job(), 202))
    limit = Settings().max_body_bytes

    taken, refused = [
        await gateway.http.post("/jobs", content=_in_one_chunk(body) if chunked else body)
        for body in (b"x" * limit, b"x" * (limit + 1))
    ]

    assert taken.status_code == 202
    assert [len(asked.body) for asked in node.asked] == [limit]
    assert refused.status_code == 413
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["code"] == "payload_too_large"


async def _in_one_chunk(body: bytes) -> AsyncIterator[bytes]:
    yield body


@pytest.mark.parametrize(("given", "kept"), [("order-66.a", True), ("", False), ('"} forged: {"', False)])
async def test_one_request_id_from_client_to_log(gateway: Gateway, given: str, kept: bool) -> None:
    node = await gateway.add_node()
    node.on("GET /jobs/j1", lambda asked: answer(a_job(), X_Request_Id=asked.headers["x-request-id"]))

    response = await gateway.http.get("/jobs/j1", headers={"X-Request-Id": given} if given else {})

    seen = response.headers["x-request-id"]
    await until(lambda: gateway.nginx.requests("/jobs/j1") != [])  # written once the answer is sent
    assert [entry["request_id"] for entry in gateway.nginx.requests("/jobs/j1")] == [seen]
    assert (seen == given) is kept
    assert len(seen) >= 8


async def test_no_secret_of_a_url_is_logged_not_even_when_something_fails(gateway: Gateway) -> None:
    async def ask() -> None:
        await gateway.exchange(
            f"GET {EVENTS}?token={SECRET} HTTP/1.1\nHost: t\nReferer: /?{SECRET}\nConnection: close\n\n"
        )

    await ask()  # no such name
    gateway.dns.table["api"] = [gateway.network.address()]
    await repeat(ask, until=lambda: any(entry["node"] for entry in gateway.nginx.requests(EVENTS)))  # nobody listens
    gateway.dns.table["api"].clear()
    node = await gateway.add_node()
    node.on(f"GET {EVENTS}", events(TOKEN, end=End.BROKEN))
    await repeat(ask, until=lambda: bool(node.asked))

    assert node.asked[0].query == {"token": SECRET}
    assert SECRET not in gateway.nginx.log


async def test_nodes_are_found_as_they_come_and_forgotten_as_they_go(gateway: Gateway) -> None:
    first, second = await gateway.add_node(), await gateway.add_node()
    for node in (first, second):
        node.on("GET /jobs/j1", answer(a_job()))
    statuses: list[int] = []

    async def ask() -> None:
        statuses.append((await gateway.http.get("/jobs/j1")).status_code)

    gateway.dns.table["api"] = [first.address]
    await ask()
    assert len(first.asked) == 1
    gateway.dns.table["api"].append(second.address)
    await repeat(ask, until=lambda: bool(second.asked))
    assert set(statuses) == {200}
    gateway.dns.table["api"].clear()
    await repeat(ask, until=lambda: statuses[-1] == 503)
