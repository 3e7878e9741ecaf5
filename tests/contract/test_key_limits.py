"""The limits of keys and tenants, on two nodes: what is refused, how that is said, and that nobody else feels it."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis

from shared.storage.keys import DAY_MS, RESERVED_MS, idempotency
from tests.contract.conftest import OURS
from tests.support.cluster import Cluster, running_cluster
from tests.support.loops import until
from tests.support.wire import SLOW, Tail, Wire, assert_problem, scripted

TENANTS = {
    "free": "",
    "brisk": "requests_per_s = 0.01\nrequest_burst = 6",
    "hasty": "requests_per_s = 0.01\nrequest_burst = 6",
    "careless": "requests_per_s = 0.001\nrequest_burst = 50",
    "guests": "requests_per_s = 0.01\nrequest_burst = 60\nreaders_per_job = 0",
    "coming": "requests_per_s = 0.01\nrequest_burst = 1\nreaders = 5",
    "few": "open_jobs = 3",
    "poor": "tokens_per_day = 6",
    "short": "max_tokens = 4\nprompt_bytes = 300",
    "reading": "readers = 3",
    "together": "readers_per_job = 2",
}
ENV = {
    "TAILRACE_API_KEYS": ",".join(f"{tenant}:key-of-{tenant}" for tenant in TENANTS),
    "TAILRACE_KEY_REQUESTS_PER_S": "0",
    "TAILRACE_FAILED_AUTH_PER_S": "0.5",
}
PATIENT = (sys.executable, "-P", "-c", "from api import node; node.PATIENCE_S = 30; from cli.main import main; main()")
"""A node that does not count by itself for a while where its machine stops for a fifth of a second: what is asked here
is what nodes count together."""


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes and a worker; each tenant has limits of its own."""
    if not OURS:
        pytest.skip("asks for something that only a node of our own has")
    path: Path = tmp_path_factory.mktemp("limits") / "limits.toml"
    path.write_text("\n".join(f"[{tenant}]\n{limits}" for tenant, limits in TENANTS.items()))
    with running_cluster(api=2, workers=1, env={**ENV, "TAILRACE_LIMITS_FILE": str(path)}, program=PATIENT) as cluster:
        yield cluster


Callers = Callable[[str], tuple[Wire, Wire]]


@pytest.fixture
async def callers(limited: Cluster) -> AsyncIterator[Callers]:
    """For a tenant: a caller of each node. Its jobs are ended afterwards."""
    async with AsyncExitStack() as stack:
        asked: list[Wire] = []

        def of(tenant: str) -> tuple[Wire, Wire]:
            asked.extend(Wire(url, f"key-of-{tenant}") for url in limited.urls)
            for wire in asked[-2:]:
                stack.push_async_exit(wire)
            return asked[-2], asked[-1]

        yield of


@pytest.mark.requirement("LT-1")
@pytest.mark.requirement("LT-2")
async def test_a_key_that_asks_too_often_is_told_when_to_come_back_on_whichever_node(callers: Callers) -> None:
    nodes = callers("brisk")
    answers = [await nodes[at % 2].ask("GET", "/jobs") for at in range(12)]
    passed = [answer for answer in answers if answer.status_code == 200]
    assert 6 <= len(passed) < 12
    refused = answers[-1]
    assert_problem(refused, 429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 100
    for answer in answers:
        assert answer.headers["ratelimit-policy"] == '"requests";q=6;w=600'
        assert answer.headers["ratelimit"].startswith('"requests";r=')
    assert refused.headers["ratelimit"].startswith('"requests";r=0;t=')


@pytest.mark.requirement("LT-2")
async def test_a_request_counts_once_also_where_it_is_not_sound(callers: Callers) -> None:
    wire, _ = callers("careless")
    left = []
    for body in (scripted("hello"), {"mood": "good"}, {}, scripted("hello", priority=77)):
        answer = await wire.create(body)
        left.append(int(answer.headers["ratelimit"].partition("r=")[2].partition(";")[0]))
    assert left == list(range(left[0], left[0] - 4, -1))


@pytest.mark.requirement("LT-1")
async def test_one_keys_limit_is_felt_by_nobody_else_and_health_is_free(callers: Callers) -> None:
    wire, _ = callers("hasty")
    other, _ = callers("free")

    async def refused() -> bool:
        return (await wire.ask("GET", "/jobs")).status_code == 429

    await until(refused)
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert (await wire.ask("GET", path)).status_code == 200
    answer = await other.ask("GET", "/jobs")
    assert answer.status_code == 200
    assert "ratelimit" not in answer.headers


@pytest.mark.requirement("LT-12")
async def test_a_token_that_runs_wild_keeps_neither_its_key_nor_other_tokens_out(
    limited: Cluster, callers: Callers
) -> None:
    backend, _ = callers("guests")
    wild, good = [(await backend.create(scripted("hello"))).json() for _ in range(2)]
    async with Wire(limited.url, wild["read_token"]) as page:
        answers = [await page.ask("GET", f"/jobs/{wild['id']}") for _ in range(9)]
    assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 3
    assert_problem(answers[-1], 429, "rate_limited")
    assert (await backend.ask("GET", "/jobs")).status_code == 200
    async with Wire(limited.url, good["read_token"]) as page:
        assert (await page.ask("GET", f"/jobs/{good['id']}")).status_code == 200


@pytest.mark.requirement("LT-3")
async def test_readers_come_back_all_at_once_and_are_never_told_429(callers: Callers) -> None:
    wire, _ = callers("coming")
    job = await wire.submit("hello")
    assert_problem(await wire.create(scripted("hello")), 429, "rate_limited")
    for _ in range(5):
        assert (await wire.events(job)).names[-1] == "done"
    for _ in range(3):
        with pytest.raises(Exception, match=r"closed|disconnect"):
            await wire.events(job)


@pytest.mark.requirement("LT-4")
async def test_a_tenant_has_so_many_open_jobs_on_all_nodes_and_an_end_makes_room(callers: Callers) -> None:
    nodes = callers("few")
    answers = await asyncio.gather(*(nodes[at % 2].create(scripted(params=SLOW)) for at in range(8)))
    made = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    assert len(made) == 3
    for answer in answers:
        if answer.status_code != 202:
            assert_problem(answer, 429, "too_many_jobs")
            assert int(answer.headers["retry-after"]) >= 1
    await nodes[1].cancel(made[0])
    made.append(await nodes[0].submit(params=SLOW))
    assert_problem(await nodes[1].create(scripted("hello")), 429, "too_many_jobs")
    for job in made:
        await nodes[0].cancel(job)
    # One that ends by itself gives its place back as well.

    async def room() -> bool:
        return (await nodes[0].create(scripted("hello"))).status_code == 202

    for _ in range(10):
        await until(room)


@pytest.mark.requirement("ID-9")
async def test_posts_that_are_refused_leave_no_keys_that_last_and_make_a_job_when_there_is_room(
    limited: Cluster, callers: Callers
) -> None:
    wire, _ = callers("few")
    await until(lambda: _may_create(wire, "lasts"))
    jobs = []
    while (made := await wire.create(scripted(params=SLOW))).status_code == 202:
        jobs.append(made.json()["id"])
    for _ in range(2):
        assert_problem(await wire.create(scripted(params=SLOW), key="refused"), 429, "too_many_jobs")
    with contextlib.closing(limited.valkey.client()) as store:
        assert 0 < _left_ms(store, "refused") <= RESERVED_MS
        assert _left_ms(store, "lasts") > DAY_MS / 2
        for job in jobs:
            await wire.cancel(job)
        await until(lambda: _may_create(wire, "refused"))
        assert _left_ms(store, "refused") > DAY_MS / 2


def _left_ms(store: "redis.Redis", key: str) -> int:
    return store.pttl(idempotency("few", key))  # type: ignore[return-value]


@pytest.mark.requirement("LT-4")
async def test_a_full_tenant_still_gets_the_job_of_a_known_key(callers: Callers) -> None:
    wire, _ = callers("few")
    await until(lambda: _may_create(wire, "first"))
    while (await wire.create(scripted(params=SLOW))).status_code == 202:
        pass
    again = await wire.create(scripted(params=SLOW), key="first")
    assert again.status_code == 200
    listed = await wire.ask("GET", "/jobs")
    for job in listed.json()["data"]:
        await wire.cancel(job["id"])


async def _may_create(wire: Wire, key: str) -> bool:
    return (await wire.create(scripted(params=SLOW), key=key)).status_code in (200, 202)


@pytest.mark.requirement("LT-5")
async def test_a_tenant_whose_tokens_are_used_up_waits_for_the_next_day(callers: Callers) -> None:
    wire, other = callers("poor")
    job = await wire.ended(await wire.submit(params={"tokens": 20}))
    assert job["usage"]["output_tokens"] == 20

    async def refused() -> bool:
        return (await other.create(scripted("hello"))).status_code == 429

    await until(refused)
    answer = await wire.create(scripted("hello"))
    assert_problem(answer, 429, "budget_spent")
    assert 1 <= int(answer.headers["retry-after"]) <= 86_400
    assert (await wire.show(job["id"]))["status"] == "done"


@pytest.mark.requirement("LT-6")
async def test_max_tokens_has_a_cap_which_is_also_what_a_job_gets_that_names_none(callers: Callers) -> None:
    wire, _ = callers("short")
    refused = await wire.create(scripted(params={"tokens": 20}, max_tokens=5))
    assert "4" in assert_problem(refused, 400, "invalid_request", "max_tokens")["detail"]
    job = await wire.ended(await wire.submit(params={"tokens": 20}))
    assert (job["finish_reason"], job["usage"]["output_tokens"]) == ("length", 4)
    less = await wire.ended(await wire.submit(params={"tokens": 20}, max_tokens=2))
    assert less["usage"]["output_tokens"] == 2


@pytest.mark.requirement("LT-6")
async def test_the_cap_is_no_part_of_what_a_key_stands_for(callers: Callers) -> None:
    wire, _ = callers("short")
    first = await wire.create(scripted("hello"), key="capped")
    again = await wire.create(scripted("hello", max_tokens=None), key="capped")
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])


@pytest.mark.requirement("LT-7")
async def test_a_prompt_beyond_the_keys_limit_is_413(callers: Callers) -> None:
    wire, _ = callers("short")
    assert (await wire.create({**scripted("hello"), "prompt": "p" * 200})).status_code == 202
    assert_problem(await wire.create({**scripted("hello"), "prompt": "p" * 301}), 413, "payload_too_large")


async def _begun(tail: Tail) -> None:
    await tail.until(lambda streamed: "0-1" in streamed.ids)


@pytest.mark.requirement("LT-8")
async def test_beyond_the_limit_of_a_key_its_oldest_reader_goes_and_is_told_why(callers: Callers) -> None:
    wire, _ = callers("reading")
    jobs = [await wire.submit(params=SLOW) for _ in range(4)]
    async with AsyncExitStack() as stack:
        tails = []
        for job in jobs:
            tails.append(await stack.enter_async_context(wire.tail(job)))
            await _begun(tails[-1])
        streamed = await tails[0].end()
        assert streamed.whole
        assert (streamed.last.event, streamed.last.id) == ("too_many_readers", None)
        assert streamed.last.body["code"] == "too_many_readers"
        assert b"retry: " in bytes(streamed.raw).rpartition(b"event: too_many_readers")[0].rpartition(b"\n\n")[2]
        for job, tail in zip(jobs[1:], tails[1:], strict=True):
            await wire.cancel(job)
            assert (await tail.end()).names[-1] == "cancelled"
    await wire.cancel(jobs[0])


@pytest.mark.requirement("LT-8")
async def test_readers_of_a_key_are_counted_over_all_nodes(callers: Callers) -> None:
    nodes = callers("reading")
    jobs = [await nodes[0].submit(params=SLOW) for _ in range(5)]
    async with AsyncExitStack() as stack:
        old = [await stack.enter_async_context(nodes[0].tail(job)) for job in jobs[:2]]
        for tail in old:
            await _begun(tail)
        # Which of them is older, nodes know of each other's readers within about a second.
        young = [await stack.enter_async_context(nodes[1].tail(job)) for job in jobs[2:]]
        for tail in young:
            await _begun(tail)
        ends = [asyncio.create_task(tail.end()) for tail in (*old, *young)]
        await until(lambda: sum(end.done() for end in ends) == 2)
        assert [end.result().names[-1] for end in ends if end.done()] == ["too_many_readers"] * 2
        for job in jobs:
            await nodes[0].cancel(job)
        names = [(await end).names[-1] for end in ends]
        assert sorted(names) == ["cancelled"] * 3 + ["too_many_readers"] * 2


@pytest.mark.requirement("LT-8")
async def test_on_one_job_the_oldest_reader_of_the_key_goes_and_a_dialect_that_cannot_say_so_is_cut(
    callers: Callers,
) -> None:
    wire, _ = callers("together")
    job = await wire.submit(params=SLOW)
    async with AsyncExitStack() as stack:
        tails = []
        for dialect in ("chat", "native", "native"):
            tails.append(await stack.enter_async_context(wire.tail(job, dialect=dialect)))
            await tails[-1].until(lambda streamed: b"retry:" in bytes(streamed.raw))
        with pytest.raises(Exception, match=r"closed|disconnect|incomplete|peer"):
            await tails[0].end()
        await wire.cancel(job)
        assert [(await tail.end()).names[-1] for tail in tails[1:]] == ["cancelled"] * 2


@pytest.mark.requirement("LT-9")
async def test_tries_without_a_key_are_limited_and_keep_no_key_out(limited: Cluster, callers: Callers) -> None:
    good, _ = callers("free")
    async with Wire(limited.url, "no-such-key") as wire:
        answers = [await wire.ask("GET", "/jobs") for _ in range(12)]
    assert_problem(answers[0], 401, "unauthorized")
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert_problem(refused, 429, "rate_limited")
    assert int(refused.headers["retry-after"]) >= 1
    assert (await good.ask("GET", "/jobs")).status_code == 200
