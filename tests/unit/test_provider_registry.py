"""The registry: every provider is there by name, and none is loaded before it is called."""

import asyncio
import sys
import threading
from typing import Any

import pytest

from shared.params import PROVIDERS
from shared.settings import Settings
from tests.support.provider_calls import LIMIT_S, call_it, said
from tests.support.provider_server import ProviderServer
from worker.providers import registry
from worker.providers.registry import build_providers, close_providers, warm_up
from worker.providers.scripted import PASSAGE, ScriptedProvider


async def _modules_after(program: str, **environment: str) -> set[str]:
    """Which of the vendors' packages a fresh process has imported after `program`."""
    program += "\nimport sys; print(*({'openai', 'anthropic', 'langchain', 'langchain_core'} & set(sys.modules)))"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, env=environment
    )
    async with asyncio.timeout(LIMIT_S):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return set(output.decode().split())


BUILD = "from shared.settings import Settings; from worker.providers.registry import *; p = build_providers(Settings())"


async def test_a_worker_that_calls_no_vendor_imports_none() -> None:
    assert await _modules_after(BUILD) == set()


async def test_warming_up_loads_just_what_there_is_a_key_for() -> None:
    program = f"{BUILD}\nimport asyncio; asyncio.run(warm_up(p))"
    assert await _modules_after(program) == set()
    assert await _modules_after(program, OPENAI_API_KEY="k") == {"openai"}


async def test_every_provider_is_found_under_its_name() -> None:
    providers = build_providers(Settings())
    assert tuple(providers) == PROVIDERS
    assert [provider.name for provider in providers.values()] == list(PROVIDERS)


async def test_a_provider_answers_at_its_first_call_and_at_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ProviderServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        providers = build_providers(Settings())
        await warm_up(providers)
        outcomes = await asyncio.gather(*(call_it(providers[name]) for name in ("openai", "anthropic") for _ in "123"))
        assert [outcome.text for outcome in outcomes] == [said()] * 6
        await close_providers(providers)


async def test_loading_a_provider_leaves_the_event_loop_free(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def make(*_: Any) -> Any:
        threads.append(threading.current_thread())
        return ScriptedProvider()

    monkeypatch.setattr(registry, "_make", make)
    provider = build_providers(Settings())["openai"]
    assert (await call_it(provider)).text == PASSAGE
    assert (await call_it(provider)).text == PASSAGE
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_a_provider_that_cannot_be_loaded_fails_its_jobs_and_not_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> Any:
        raise ImportError("/secret/path")

    monkeypatch.setattr(registry, "_make", broken)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    providers = build_providers(Settings())
    await warm_up(providers)
    error = (await call_it(providers["openai"])).error
    assert error is not None
    assert (error.code, "secret" in f"{error.message} {error.detail}") == ("provider_not_configured", False)
    await close_providers(providers)
