"""docker-compose.yml at work: its very commands, two API nodes and two workers behind a real nginx, killed at will."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from tailrace_client import AsyncTailrace, Stream

from tests.acceptance.conftest import quick
from tests.support.containers import Stack, running_stack
from tests.support.gateway import ENV
from tests.support.nginx import PORT
from tests.support.watch import GUARD_S, assert_whole, finish, read_tokens, said

pytestmark = pytest.mark.needs_nginx

KEY = "key-of-acme"
LONG: dict[str, Any] = {"tokens": 100_000, "tokens_per_s": 200}
"""Longer than any test; whoever has seen enough cancels it."""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """docker compose up --scale api=2 --scale worker=2"""
    with running_stack({**ENV, "TAILRACE_HEARTBEAT_S": "0.2"}, api=2, workers=2) as stack:
        yield stack


@pytest.fixture
def tailrace(stack: Stack) -> AsyncTailrace:
    """A client of the gateway."""
    return quick(stack.url, KEY)


def plain_client(stack: Stack) -> httpx2.AsyncClient:
    """A client that knows nothing of Tailrace and so hides nothing."""
    return httpx2.AsyncClient(base_url=stack.url, headers={"Authorization": f"Bearer {KEY}"})


def long_answer(tailrace: AsyncTailrace) -> Stream:
    return tailrace.stream(provider="scripted", model="demo", prompt="go", params=LONG)


async def cancel_and_check(tailrace: AsyncTailrace, stream: Stream) -> None:
    """End the job; the reader has every byte of it, once, and they are what the provider said."""
    job = await tailrace.cancel(str(stream.job_id))
    assert (await finish(stream)).type == "cancelled"
    assert job.text
    assert said(LONG, 1).startswith(job.text)
    await assert_whole(tailrace, stream, job.text)


def nodes_that_served(stack: Stack, stream: Stream) -> set[str]:
    entries = stack.nginx.requests(f"/jobs/{stream.job_id}/events")
    return {str(entry["node"]).removesuffix(f":{PORT}") for entry in entries if entry["status"] == "200"}


async def test_the_first_events_and_the_heartbeats_pass_while_the_answer_is_still_going_on(
    stack: Stack, tailrace: AsyncTailrace
) -> None:
    slow = {"tokens": 1000, "tokens_per_s": 1}
    async with tailrace, plain_client(stack) as http:
        job = await tailrace.submit(provider="scripted", model="demo", prompt="go", params=slow)
        seen: list[str] = []

        async with asyncio.timeout(GUARD_S), http.stream("GET", f"/jobs/{job.id}/events") as response:
            async for line in response.aiter_lines():
                seen.append(line)
                if seen.count(": ka") == 2 and "event: token" in seen:
                    break

        assert seen.index("event: queued") < seen.index("event: start") < seen.index("event: token")
        assert (await tailrace.job(job.id)).status == "running"
        await tailrace.cancel(job.id)


async def test_a_reader_that_hops_between_all_nodes_loses_nothing_and_sees_nothing_twice(
    stack: Stack, tailrace: AsyncTailrace
) -> None:
    async with tailrace, long_answer(tailrace) as stream:
        await read_tokens(stream, 1)
        # One that is added is found as well, without a reload.
        added = await asyncio.to_thread(stack.add_api)
        async with asyncio.timeout(GUARD_S):
            while nodes_that_served(stack, stream) != set(stack.api):
                await stream.cut()
                await read_tokens(stream, 1)
        stack.remove_api(added)
        await read_tokens(stream, 1)

        await cancel_and_check(tailrace, stream)
        assert stream.counters.resumes >= len(stack.api)


async def test_killed_nodes_cost_their_readers_a_pause(stack: Stack, tailrace: AsyncTailrace) -> None:
    async with tailrace, long_answer(tailrace) as stream:
        await read_tokens(stream, 1)
        for address in stack.api:
            stack.kill(address)
            await read_tokens(stream, 20)
            await asyncio.to_thread(stack.start, address)

        await cancel_and_check(tailrace, stream)
        assert stream.counters.resumes >= 1


async def test_a_rolling_restart_costs_readers_a_pause(stack: Stack, tailrace: AsyncTailrace) -> None:
    async with tailrace, long_answer(tailrace) as stream:
        await read_tokens(stream, 1)
        for address, node in stack.api.items():
            leaving = asyncio.to_thread(node.terminate)
            status, _ = await asyncio.gather(leaving, read_tokens(stream, 20))
            assert status == 0
            await asyncio.to_thread(stack.start, address)

        await cancel_and_check(tailrace, stream)
        assert stream.counters.resumes >= 1


async def test_while_no_node_is_left_readers_wait_and_posts_are_told_to_come_back(
    stack: Stack, tailrace: AsyncTailrace
) -> None:
    async with tailrace, long_answer(tailrace) as stream, plain_client(stack) as http:
        await read_tokens(stream, 1)
        async with http.stream("GET", f"/jobs/{stream.job_id}/events") as another:
            pieces = another.aiter_raw()
            await anext(pieces)
            for address in stack.api:
                stack.kill(address)
            # A clean end would look like a finished answer.
            with pytest.raises(httpx2.RequestError):
                [piece async for piece in pieces]

        with pytest.raises(httpx2.RequestError):
            await http.get(f"/jobs/{stream.job_id}/events")
        refusal = await http.post("/jobs", json={"provider": "scripted", "model": "demo", "prompt": "go"})
        assert (refusal.status_code, refusal.json()["code"]) == (503, "unavailable")
        assert "retry-after" in refusal.headers

        for address in stack.api:
            await asyncio.to_thread(stack.start, address)
        await read_tokens(stream, 20)
        await cancel_and_check(tailrace, stream)


async def test_a_killed_store_has_lost_nothing(stack: Stack, tailrace: AsyncTailrace) -> None:
    async with tailrace, tailrace.stream(provider="scripted", model="demo", prompt="go") as stream:
        await finish(stream)
        stack.valkey.kill()
        await asyncio.to_thread(stack.valkey.start)

        assert (await tailrace.job(str(stream.job_id))).text == stream.transcript.text


def test_the_health_checks_see_what_they_are_to_see(stack: Stack) -> None:
    def healthy(address: str) -> bool:
        kind, program, *arguments = stack.services["api"].spec["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "python")
        there = [argument.replace("127.0.0.1", address) for argument in arguments]
        return subprocess.run([sys.executable, *there], check=False, capture_output=True).returncode == 0

    address = next(iter(stack.api))
    url = stack.services["nginx"].spec["healthcheck"]["test"][-1]

    assert healthy(address)
    stack.kill(address)
    assert not healthy(address)
    stack.start(address)
    assert httpx2.get(url.replace("127.0.0.1", stack.nginx.place.address)).text == "ok\n"
