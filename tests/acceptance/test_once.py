"""What is asked for twice is paid for once, and what a provider says when it refuses stays between it and us."""

import asyncio
from collections import Counter

import pytest

from tests.acceptance.conftest import ClusterFactory
from tests.support.provider_frames import SECRET
from tests.support.provider_server import ProviderServer
from tests.support.wire import Wire

DIALECTS = ("native", "chat", "chat-meta", "langchain")


async def test_a_hundred_equal_posts_at_two_nodes_cost_one_call_of_the_provider(cluster_of: ClusterFactory) -> None:
    async with ProviderServer() as provider:
        cluster = cluster_of(api=2, env=provider.environment)
        body = {"provider": "openai", "model": "gpt-x", "prompt": "tokens:5"}
        async with Wire(cluster.urls[0]) as first, Wire(cluster.urls[1]) as second:
            for key in ("one", "two", "three"):
                called = len(provider.requests)
                posts = [(first, second)[n % 2].create(body, key=key) for n in range(100)]
                answers = await asyncio.gather(*posts)
                (job,) = {answer.json()["id"] for answer in answers}
                await first.ended(job)

                assert Counter(answer.status_code for answer in answers) == {202: 1, 200: 99}
                assert len(provider.requests) == called + 1
                assert (await second.create({**body, "prompt": "another"}, key=key)).status_code == 409


@pytest.mark.parametrize(("name", "model"), [("openai", "gpt-x"), ("anthropic", "c"), ("langchain", "openai:gpt-y")])
async def test_no_word_of_a_providers_error_reaches_a_client_or_a_log(
    cluster_of: ClusterFactory, name: str, model: str
) -> None:
    async with ProviderServer() as provider:
        cluster = cluster_of(env={**provider.environment, "TAILRACE_RETRY_BASE_S": "0.01"})
        async with Wire(cluster.url) as wire:
            for fault in ("400", "401", "quota", "500", "error:2"):
                body = {"provider": name, "model": model, "prompt": f"fault:{fault}", "on_interrupt": "fail"}
                job = (await wire.create(body)).json()["id"]
                said = [bytes((await wire.events(job, dialect=dialect)).raw) for dialect in DIALECTS]
                said += [(await wire.ask("GET", path)).content for path in (f"/jobs/{job}", "/jobs")]

                assert b'"status":"failed"' in said[-2], said[-2]
                assert not any(part.encode() in answer for answer in said for part in (SECRET, SECRET.split()[0]))
    assert all(SECRET not in process.log for process in (*cluster.apis, *cluster.workers))
