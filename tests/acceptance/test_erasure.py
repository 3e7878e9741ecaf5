"""What was deleted, or has expired, is nowhere in the store; where text is sealed, it never was there in clear."""

import asyncio
import contextlib
import os
from base64 import b64encode
from collections.abc import AsyncIterator

import pytest

from shared.storage.connect import Redis, open_redis
from tests.acceptance.conftest import ClusterFactory
from tests.support.loops import until
from tests.support.provider_behaviour import Behaviour, ToolUse
from tests.support.provider_server import ProviderServer
from tests.support.stores import everything_in
from tests.support.wire import Json, Wire, scripted

CANARY = "canary7Q"
ASKED: Json = {
    "prompt": f"prompt {CANARY}",
    "system": f"system {CANARY}",
    "metadata": {"note": f"metadata {CANARY}"},
}
LONG: Json = {"text": f"{CANARY} word ", "tokens": 4000, "tokens_per_s": 40}
"""Talks for longer than the test, and says its canary at once."""
SEALED = {"TAILRACE_ENCRYPTION_KEYS": f"k1:{b64encode(os.urandom(32)).decode()}"}
ENV = {"TAILRACE_API_KEYS": "acme:key-of-acme", "TAILRACE_SCRIPTED_FAULTS": "true", "TAILRACE_SLOTS": "2"}


@contextlib.asynccontextmanager
async def store_of(url: str) -> AsyncIterator[Redis]:
    """A client of a cluster's store."""
    redis = open_redis(url, timeout_s=5, max_connections=4)
    try:
        yield redis
    finally:
        await redis.aclose()


async def _keys_of(redis: Redis, job: str) -> dict[str, str]:
    """The last part of each key that belongs to a job, and the key's type."""
    keys = [key async for key in redis.scan_iter(match=f"*{job}*", count=1000)]
    return {key.rpartition("}")[2] or key: await redis.type(key) for key in keys}


async def _jobs_of_every_kind(wire: Wire, provider: ProviderServer, redis: Redis) -> dict[str, str]:
    """Jobs in every state, whose every text has the canary; name → id."""
    tools = (ToolUse("call_1", f"tool_{CANARY}", (f'{{"q":"{CANARY}', '"}')),)
    provider.script(Behaviour(reasoning=(f"thought {CANARY}",), pieces=(f"{CANARY} ", "said"), tools=tools))
    bodies = {
        "done": scripted(f"{CANARY} is said and done, and said again: {CANARY}", **ASKED),
        "tools": {"provider": "openai", "model": "m", **ASKED},
        "failed": scripted(f"{CANARY} a b c", {"fault": {"kind": "drop", "after": 2}}, on_interrupt="fail", **ASKED),
    }
    jobs: dict[str, str] = {}
    for name, body in bodies.items():
        answer = await wire.create(body, key=f"{name}-{CANARY}")
        assert answer.status_code == 202, answer.text
        jobs[name] = answer.json()["id"]
        await wire.ended(jobs[name])
    for name in ("running", "running-too", "queued"):
        answer = await wire.create(scripted(params=LONG, **ASKED), key=f"{name}-{CANARY}")
        assert answer.status_code == 202, answer.text
        jobs[name] = answer.json()["id"]
        if name != "queued":
            await wire.show_when(jobs[name], lambda job: CANARY in job["text"])
    assert (await wire.show(jobs["queued"]))["status"] == "queued"
    log = f"tailrace:{{acme/{jobs['done']}}}:log"

    async def rewritten() -> bool:
        return any(field.strip("!")[:1] == "T" for _, fields in await redis.xrange(log) for field in fields)

    await until(rewritten)
    return jobs


@pytest.mark.parametrize("env", [{}, SEALED], ids=["in clear", "sealed"])
async def test_delete_leaves_nothing_of_a_job_but_that_it_was_there(
    cluster_of: ClusterFactory, provider_server: ProviderServer, env: dict[str, str]
) -> None:
    cluster = cluster_of(env={**ENV, **env, **provider_server.environment})
    async with Wire(cluster.url, "key-of-acme") as wire, store_of(cluster.valkey.url) as redis:
        jobs = await _jobs_of_every_kind(wire, provider_server, redis)
        before = await everything_in(redis)
        assert (CANARY in before) is not bool(env)
        kinds = set().union(*[set(await _keys_of(redis, job)) for job in jobs.values()])
        assert {":meta", ":log", ":lease", ":ops", ":tomb"} <= kinds
        assert any(kind.startswith("arq:") for kind in kinds)
        assert "tailrace:idem:acme:" in before

        for job in jobs.values():
            assert (await wire.ask("DELETE", f"/jobs/{job}")).status_code == 204

        async def erased() -> bool:
            return CANARY not in await everything_in(redis) and not [
                job
                for job in jobs.values()
                if (await _keys_of(redis, job)).keys() & {":meta", ":log", ":lease", ":ops"}
            ]

        await until(erased)
        for job in jobs.values():
            left = await _keys_of(redis, job)
            assert {kind for kind in left if kind.startswith(":")} == {":tomb"}
            assert await redis.get(f"tailrace:{{acme/{job}}}:tomb") == "deleted"
            assert (await wire.ask("GET", f"/jobs/{job}")).status_code == 410
        listed = (await wire.ask("GET", "/jobs")).json()
        assert listed == {"data": [], "next": None}


async def test_expiry_leaves_nothing_either(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(env={**ENV, "TAILRACE_COMPACT_AFTER_S": "0"})
    async with Wire(cluster.url, "key-of-acme") as wire, store_of(cluster.valkey.url) as redis:
        job = await wire.submit(f"{CANARY} a b", ttl_s=1, **ASKED)
        await wire.events(job)

        async def gone() -> bool:
            left = {key for key in await _keys_of(redis, job) if key.startswith(":")}
            # Of what was done to it, without its text, a repetition may still be asked for a minute.
            return CANARY not in await everything_in(redis) and left <= {":tomb", ":ops"}

        await until(gone)
        assert (await wire.ask("GET", f"/jobs/{job}")).status_code == 410


async def test_where_text_is_sealed_readers_see_no_difference_and_the_store_no_text(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(api=2, workers=2, env={**ENV, **SEALED})
    said = {"text": f"{CANARY} und é🌊 ", "tokens": 300, "tokens_per_s": 150}
    whole = f"{CANARY} und é🌊 " * 100
    async with (
        Wire(cluster.url, "key-of-acme") as one,
        Wire(cluster.urls[1], "key-of-acme") as two,
        store_of(cluster.valkey.url) as redis,
    ):
        job = await one.submit(params=said, **ASKED)
        async with two.tail(job) as tail:
            streamed = await tail.until(lambda streamed: len(streamed.all("token")) > 3)
            assert CANARY not in await everything_in(redis)
            owner = cluster.owner_of(job, "acme")
            assert owner is not None
            owner.kill()
            streamed = await tail.end()
        assert streamed.names.count("reset") == 1
        again = await one.log(job)
        assert [body["text"] for body in again.all("token")]
        assert (await two.show(job))["text"] == whole
        assert CANARY not in await everything_in(redis)
        replay = await asyncio.gather(*(wire.create({"provider": "scripted", "model": "demo", **ASKED}, key="k")
                                        for wire in (one, two, one)))  # fmt: skip
        assert len({answer.json()["id"] for answer in replay}) == 1
        other = await two.create(scripted("else", **ASKED), key="k")
        assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
