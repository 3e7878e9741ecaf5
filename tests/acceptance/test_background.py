"""A generation in the background: what readers and the provider see when its worker dies, leaves or loses it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from tailrace_client import Stream

from shared.jobs import JobKey
from shared.storage.keys import job_keys
from tests.acceptance.conftest import ClusterFactory, quick
from tests.support.cluster import Cluster, Process
from tests.support.provider_behaviour import answer, behaviour
from tests.support.watch import GUARD_S, assert_whole, finish, read_tokens, read_until

SLOW = "tokens:120 rate:25"


class Provider:
    """The provider on loopback, as a process."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.environment = {name: str(value) for name, value in said.items()} | {"TAILRACE_RETRY_BASE_S": "0.01"}
        self._url = f"http://127.0.0.1:{said['port']}"

    async def generations(self, model: str) -> list[dict[str, Any]]:
        """What was begun for a model, paid for each, and what became of it."""
        async with httpx2.AsyncClient() as http:
            shown: list[dict[str, Any]] = (await http.get(f"{self._url}/background")).json()
        return [one for one in shown if one["model"] == model]

    async def forget(self, model: str) -> None:
        """Let the provider lose what was begun for a model."""
        async with httpx2.AsyncClient() as http:
            (await http.post(f"{self._url}/background/forget", json={"model": model})).raise_for_status()

    async def cancelled(self, model: str) -> None:
        """Return once the provider was told to end the model's generation."""
        async with asyncio.timeout(GUARD_S):
            while [one["status"] for one in await self.generations(model)] != ["cancelled"]:
                pass


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    command = [sys.executable, "-m", "tests.support.provider_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield Provider(json.loads(process.stdout.readline()))
        finally:
            process.terminate()


def job(model: str, prompt: str = SLOW, **more: Any) -> Any:
    """A job in the background; each test has a model of its own, to find its generations by."""
    return {"provider": "openai", "model": model, "prompt": prompt, "params": {"background": True}, **more}


def said(model: str, prompt: str = SLOW) -> str:
    """What the provider answers."""
    how = behaviour({"model": model, "messages": [{"role": "user", "content": prompt}]})
    return answer(model, [("user", prompt)], how.tokens)


def owner(cluster: Cluster, stream: Stream) -> Process:
    """The worker that holds the job."""
    process = cluster.owner_of(str(stream.job_id))
    assert process is not None
    return process


@pytest.mark.parametrize("on_interrupt", ["restart", "continue", "fail"])
async def test_a_killed_workers_answer_goes_on_and_is_paid_once(
    cluster_of: ClusterFactory, provider: Provider, on_interrupt: str
) -> None:
    model = f"killed-{on_interrupt}"
    cluster = cluster_of(workers=2, env=provider.environment)
    async with quick(cluster.url) as tailrace, tailrace.stream(**job(model, on_interrupt=on_interrupt)) as stream:
        await read_tokens(stream, 20)
        shown = stream.transcript.text
        owner(cluster, stream).kill()
        reset = await read_until(stream, lambda event: event.type == "reset")
        terminal = await finish(stream)

        assert reset.data["reason"] == "worker_lost"
        assert reset.data["keep"] >= len(shown)
        assert (terminal.type, terminal.data["attempt"]) == ("done", 2)
        assert terminal.data["usage"]["output_tokens"] == 120
        await assert_whole(tailrace, stream, said(model))
    (generation,) = await provider.generations(model)
    assert generation["status"] == "completed"
    assert [after > 0 for after in generation["reads"]] == [True]


async def test_a_drained_workers_answer_goes_on_and_is_paid_once(
    cluster_of: ClusterFactory, provider: Provider
) -> None:
    cluster = cluster_of(workers=2, env={**provider.environment, "TAILRACE_WORKER_DRAIN_S": "0.2"})
    async with quick(cluster.url) as tailrace, tailrace.stream(**job("drained")) as stream:
        await read_tokens(stream, 20)
        assert owner(cluster, stream).terminate() == 0
        reset = await read_until(stream, lambda event: event.type == "reset")
        await finish(stream)

        assert reset.data["reason"] == "drained"
        assert reset.data["keep"] > 0
        await assert_whole(tailrace, stream, said("drained"))
    (generation,) = await provider.generations("drained")
    assert (generation["status"], generation["cancels"]) == ("completed", 0)


async def test_a_worker_killed_before_the_first_token_leaves_no_second_bill(
    cluster_of: ClusterFactory, provider: Provider
) -> None:
    prompt = "tokens:20 first:4000"
    cluster = cluster_of(workers=2, env=provider.environment)
    async with quick(cluster.url) as tailrace, tailrace.stream(**job("early", prompt)) as stream:
        await read_until(stream, lambda event: event.type == "start")
        key = job_keys(JobKey("default", str(stream.job_id)))
        with cluster.valkey.client() as client:
            async with asyncio.timeout(GUARD_S):
                while not client.hexists(key.meta, "upstream"):
                    pass
        owner(cluster, stream).kill()

        assert (await finish(stream)).data["attempt"] == 2
        await assert_whole(tailrace, stream, said("early", prompt))
    assert len(await provider.generations("early")) == 1


async def test_reasoning_and_tool_calls_are_shown_again_from_the_start(
    cluster_of: ClusterFactory, provider: Provider
) -> None:
    prompt = f"{SLOW} reasoning:5"
    cluster = cluster_of(workers=2, env=provider.environment)
    async with quick(cluster.url) as tailrace, tailrace.stream(**job("thinking", prompt)) as stream:
        await read_tokens(stream, 20)
        owner(cluster, stream).kill()
        reset = await read_until(stream, lambda event: event.type == "reset")
        await finish(stream)

        assert reset.data["keep"] == 0
        assert stream.transcript.reasoning == "".join(f"thought {count}. " for count in range(5))
        await assert_whole(tailrace, stream, said("thinking", prompt))
    (generation,) = await provider.generations("thinking")
    assert generation["reads"] == [None]


async def test_a_connection_that_breaks_shows_nowhere(cluster_of: ClusterFactory, provider: Provider) -> None:
    prompt = "tokens:60 fault:drop:7"  # every connection breaks after seven pieces
    cluster = cluster_of(env={**provider.environment, "TAILRACE_CIRCUIT_FAILURES": "100"})
    async with quick(cluster.url) as tailrace:
        stream = tailrace.stream(**job("broken", prompt, on_interrupt="fail"))
        terminal = await finish(stream)

        assert (terminal.type, terminal.data["attempt"], terminal.data["tokens"]) == ("done", 1, 60)
        await assert_whole(tailrace, stream, said("broken", prompt))
    (generation,) = await provider.generations("broken")
    assert 8 <= len(generation["reads"]) <= 12  # a connection that is reset may take bytes with it that had come


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_a_job_that_is_ended_ends_its_generation(
    cluster_of: ClusterFactory, provider: Provider, how: str
) -> None:
    cluster = cluster_of(env=provider.environment)
    async with quick(cluster.url) as tailrace, tailrace.stream(**job(how, "tokens:2000 rate:20")) as stream:
        await read_tokens(stream, 3)
        await getattr(tailrace, how)(str(stream.job_id))
        await provider.cancelled(how)


async def test_a_job_that_fails_ends_its_generation(cluster_of: ClusterFactory, provider: Provider) -> None:
    cluster = cluster_of(env={**provider.environment, "TAILRACE_MAX_OUTPUT_BYTES": "1024"})
    async with quick(cluster.url) as tailrace:
        terminal = await finish(tailrace.stream(**job("large", "tokens:20000 rate:500")))
        assert terminal.data["code"] == "output_too_large"
        await provider.cancelled("large")


@pytest.mark.parametrize("on_interrupt", ["restart", "fail"])
async def test_a_generation_that_the_provider_has_lost_is_left_to_the_jobs_own_rule(
    cluster_of: ClusterFactory, provider: Provider, on_interrupt: str
) -> None:
    model, attempts = f"lost-{on_interrupt}", 5 if on_interrupt == "restart" else 1
    cluster = cluster_of(env=provider.environment)
    async with quick(cluster.url) as tailrace:
        async with tailrace.stream(**job(model, "tokens:2000 rate:50", on_interrupt=on_interrupt)) as stream:
            await read_tokens(stream, 1)
            for _ in range(attempts - 1):
                await provider.forget(model)
                await read_until(stream, lambda event: event.type == "reset")
                await read_tokens(stream, 1)
            await provider.forget(model)
            terminal = await finish(stream)

        assert (terminal.type, terminal.data["code"]) == ("failed", "provider_interrupted")
        assert terminal.data["attempt"] == attempts
    assert len(await provider.generations(model)) == attempts


async def test_a_model_that_thinks_longer_than_a_first_token_may_take_is_waited_for(
    cluster_of: ClusterFactory, provider: Provider
) -> None:
    cluster = cluster_of(env={**provider.environment, "TAILRACE_FIRST_TOKEN_TIMEOUT_S": "2"})
    prompt = "tokens:10 rate:50 first:7000"
    async with quick(cluster.url) as tailrace, tailrace.stream(**job("thinker", prompt)) as stream:
        terminal = await finish(stream)

        assert terminal.type == "done"
        assert terminal.data["attempt"] == 1
        assert stream.transcript.text == said("thinker", prompt)
    assert len(await provider.generations("thinker")) == 1
