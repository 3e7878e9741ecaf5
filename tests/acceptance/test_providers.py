"""The three SDK providers through the whole of Tailrace, against a server that speaks the real wire formats."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
from tailrace_client import AsyncTailrace

from tests.acceptance.conftest import ClusterFactory, quick
from tests.support.cluster import Cluster, running_cluster
from tests.support.provider_behaviour import answer
from tests.support.watch import GUARD_S, assert_whole, finish, read_tokens

MODELS = {"openai": "gpt-x", "anthropic": "claude-x", "langchain": "openai:gpt-y"}


@pytest.fixture(scope="module")
def provider() -> Iterator[dict[str, str]]:
    """A provider on loopback, as a process; its environment for the workers."""
    command = [sys.executable, "-m", "tests.support.provider_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield {name: str(value) for name, value in json.loads(process.stdout.readline()).items()}
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def cluster(provider: dict[str, str]) -> Iterator[Cluster]:
    """A node and a worker that call it, for all tests of this file."""
    env = {**provider, "TAILRACE_RETRY_BASE_S": "0.01", "TAILRACE_RETRY_BUDGET_FLOOR": "100"}
    with running_cluster(env=env) as running:
        yield running


@pytest.fixture
async def tailrace(cluster: Cluster) -> AsyncIterator[AsyncTailrace]:
    """A client of that node."""
    async with quick(cluster.url) as client:
        yield client


@pytest.mark.parametrize("name", MODELS)
async def test_text_and_usage_arrive_as_the_provider_sent_them(tailrace: AsyncTailrace, name: str) -> None:
    stream = tailrace.stream(provider=name, model=MODELS[name], prompt="hello")
    terminal = await finish(stream)

    text = answer(MODELS[name].removeprefix("openai:"), [("user", "hello")])
    assert terminal.type == "done"
    assert terminal.data["finish_reason"] == "stop"
    assert terminal.data["usage"]["output_tokens"] > 0
    assert terminal.data["usage"]["input_tokens"] > 0
    await assert_whole(tailrace, stream, text)


@pytest.mark.parametrize("name", MODELS)
async def test_an_answer_that_breaks_in_the_middle_starts_afresh_and_is_whole(
    tailrace: AsyncTailrace, name: str
) -> None:
    prompt = "please fault:drop:5:1"
    stream = tailrace.stream(provider=name, model=MODELS[name], prompt=prompt)
    terminal = await finish(stream)

    assert terminal.type == "done"
    assert terminal.data["attempt"] == 2
    await assert_whole(tailrace, stream, answer(MODELS[name].removeprefix("openai:"), [("user", prompt)]))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("fault", "code"), [("401", "provider_auth"), ("400", "provider_rejected"), ("quota", "provider_quota")]
)
async def test_a_refusal_ends_the_job_with_its_code_and_no_word_of_the_providers(
    tailrace: AsyncTailrace, name: str, fault: str, code: str
) -> None:
    terminal = await finish(tailrace.stream(provider=name, model=MODELS[name], prompt=f"fault:{fault}"))

    if name == "anthropic" and fault == "quota":
        code = terminal.data["code"]  # Anthropic knows no such error
    assert terminal.type == "failed"
    assert terminal.data["code"] == code
    assert "Traceback" not in terminal.data["message"]


@pytest.mark.parametrize("name", MODELS)
async def test_a_rate_limit_before_the_first_token_is_waited_out_unseen(tailrace: AsyncTailrace, name: str) -> None:
    stream = tailrace.stream(provider=name, model=MODELS[name], prompt="fault:429:0:1")
    terminal = await finish(stream)

    assert terminal.type == "done"
    assert terminal.data["attempt"] == 1


@pytest.mark.parametrize("name", MODELS)
async def test_a_stream_without_its_end_mark_is_never_done(tailrace: AsyncTailrace, name: str) -> None:
    terminal = await finish(
        tailrace.stream(provider=name, model=MODELS[name], prompt="fault:end:4", on_interrupt="fail")
    )

    assert terminal.type == "failed"
    assert terminal.data["code"] == "provider_interrupted"


async def test_cancel_closes_the_connection_to_the_provider(tailrace: AsyncTailrace, provider: dict[str, str]) -> None:
    stream = tailrace.stream(provider="openai", model="gpt-cancelled", prompt="tokens:1000 rate:20")
    await read_tokens(stream, 3)

    cancelled = await tailrace.cancel(str(stream.job_id))

    assert cancelled.status == "cancelled"

    async with asyncio.timeout(GUARD_S), httpx2.AsyncClient() as http:
        while not any(
            seen["model"] == "gpt-cancelled" and seen["left"]
            for seen in (await http.get(f"http://127.0.0.1:{provider['port']}/requests")).json()
        ):
            pass


async def test_without_a_key_a_job_fails_and_names_the_variable(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    async with quick(cluster.url) as tailrace:
        for name, variable in {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}.items():
            terminal = await finish(tailrace.stream(provider=name, model="m", prompt="x"))
            assert terminal.data["code"] == "provider_not_configured"
            assert variable in terminal.data["message"]


async def test_the_tutorials_endpoints_answer_with_the_providers_text(
    cluster: Cluster, tailrace: AsyncTailrace
) -> None:
    async with httpx2.AsyncClient(base_url=cluster.url, timeout=GUARD_S) as http:
        plain = await http.post("/chat/stream", json={"message": "hi", "system_prompt": "be brief"})
        meta = await http.post("/chat/stream-meta", json={"message": "hi"})
        claude = await http.post("/anthropic/stream", json={"message": "hi", "system": "be brief"})
        chain = await http.post("/langchain/stream", json={"message": "hi"})
        job_id = plain.headers["location"].rpartition("/")[2]
        again = await http.get(f"/jobs/{job_id}/events", params={"dialect": "chat"})

    gpt = answer("gpt-4o-mini", [("user", "hi")])
    assert "".join(frame["token"] for frame in _frames(plain)) == gpt
    assert [frame["done"] for frame in _frames(plain)][-1] is True
    assert _frames(meta)[0] == {"event": "start", "model": "gpt-4o-mini"}
    assert _frames(meta)[-1]["event"] == "done"
    assert _frames(meta)[-1]["tokens"] == sum(frame["event"] == "token" for frame in _frames(meta))
    assert "".join(frame["token"] for frame in _frames(claude)) == answer("claude-haiku-4-5-20251001", [("user", "hi")])
    assert "".join(frame.get("token", "") for frame in _frames(chain)) == gpt
    assert _frames(chain)[-1] == {"done": True}
    assert "".join(frame["token"] for frame in _frames(again)) == gpt


def _frames(response: httpx2.Response) -> list[dict[str, Any]]:
    lines = [line for line in response.text.split("\n") if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]
