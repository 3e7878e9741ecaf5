"""The local provider server as a process: other tests' workers rely on its words, its records and its end."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx2
import pytest

from shared.jobs import Message
from shared.settings import Settings
from tests.support.provider_calls import CALL, LIMIT_S, call_it
from worker.providers.openai import OpenAIProvider

COMMAND = (sys.executable, "-m", "tests.support.provider_server", "--port", "0")


@pytest.fixture
async def provider(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenAIProvider]:
    process = await asyncio.create_subprocess_exec(*COMMAND, stdout=PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        for name, value in json.loads(await process.stdout.readline()).items():
            monkeypatch.setenv(name, str(value))
    async with aclosing(OpenAIProvider(Settings())) as provider:
        yield provider
    process.terminate()
    async with asyncio.timeout(LIMIT_S):
        await process.communicate()
    assert process.returncode == 0


async def test_the_requests_own_words_choose_what_happens(
    provider: OpenAIProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = await call_it(provider, model="m tokens:9")
    again = await call_it(provider, model="m tokens:9")
    assert plain.text == again.text
    assert plain.usage["output_tokens"] == 9
    dropped = await call_it(provider, model="fault:drop:5")
    assert (len(dropped.pieces), dropped.code) == (5, "provider_interrupted")
    once = [Message("user", "Please fault:429:0:1")]
    assert [(await call_it(provider, messages=once)).code for _ in "12"] == ["provider_rate_limited", None]
    rich = await call_it(provider, messages=[*CALL.messages, Message("user", "reasoning:2 tools:1 cut:utf8")])
    assert (len(rich.reasoning.split()), len(rich.tool_calls)) == (4, 1)


async def test_it_shows_what_it_was_asked(provider: OpenAIProvider) -> None:
    await call_it(provider, model="fault:drop:1")
    await call_it(provider, model="m")
    async with httpx2.AsyncClient() as client:
        base_url = str(provider.clients.of("").base_url)
        shown = (await client.get(base_url.removesuffix("/v1/") + "/requests")).json()
    path = "/v1/chat/completions"
    assert shown == [
        {"path": path, "model": "fault:drop:1", "left": True, "answered": False},
        {"path": path, "model": "m", "left": False, "answered": True},
    ]


async def test_it_ends_with_the_process_that_started_it() -> None:
    program = f"import subprocess, os; subprocess.Popen({COMMAND!r}, stdout=-1).stdout.readline(); os._exit(0)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stderr=PIPE)
    async with asyncio.timeout(LIMIT_S):
        await process.communicate()  # to the end of stderr: nobody holds that pipe any more
