"""Each tenant's calls are made with its own key or the installation's, and never with another tenant's."""

import asyncio
import logging
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from shared.errors import TailraceError
from shared.settings import Settings
from tests.support.provider_calls import call_it, said
from tests.support.provider_server import ProviderServer
from worker.providers import credentials
from worker.providers.anthropic import AnthropicProvider
from worker.providers.credentials import Clients, ProviderKeys
from worker.providers.langchain import LangChainProvider
from worker.providers.openai import OpenAIProvider
from worker.providers.registry import build_providers

KEYS = "# tenants\nacme:openai:sk-of-acme\nacme:anthropic:an-of-acme\numbra:openai:sk-of-umbra\n"
KINDS: list[Any] = [
    pytest.param(OpenAIProvider, "m", "sk-of-acme", "test-openai-key", id="openai"),
    pytest.param(AnthropicProvider, "m", "an-of-acme", "test-anthropic-key", id="anthropic"),
    pytest.param(LangChainProvider, "openai:m", "sk-of-acme", "test-openai-key", id="langchain: openai"),
    pytest.param(LangChainProvider, "anthropic:m", "an-of-acme", "test-anthropic-key", id="langchain: anthropic"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(KEYS)
    return path


@pytest.mark.parametrize(("kind", "model", "own", "ours"), KINDS)
async def test_a_tenants_key_goes_with_its_own_calls_and_with_no_others(
    server: ProviderServer, path: Path, kind: Any, model: str, own: str, ours: str
) -> None:
    tenants = ["acme", "nobody", "acme", "", "ACME", "acme"]
    async with aclosing(kind(Settings(), ProviderKeys(str(path)))) as provider:
        for tenant in tenants:
            assert (await call_it(provider, model=model, tenant=tenant)).error is None
        many = ["acme", "nobody"] * 8
        asked = [call_it(provider, model=model, tenant=tenant, system=f"for {tenant}.") for tenant in many]
        await asyncio.gather(*asked)
    sent = [request.headers["authorization"].removeprefix("Bearer ") for request in server.requests]
    assert sent[: len(tenants)] == [own if tenant == "acme" else ours for tenant in tenants]
    for key, request in list(zip(sent, server.requests, strict=True))[len(tenants) :]:
        assert key == (own if "for acme." in str(request.body) else ours)


@pytest.mark.parametrize("kind", [OpenAIProvider, LangChainProvider])
async def test_the_installations_organisation_is_not_named_with_a_tenants_key(
    server: ProviderServer, monkeypatch: pytest.MonkeyPatch, path: Path, kind: Any
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-ours")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-ours")
    async with aclosing(kind(Settings(), ProviderKeys(str(path)))) as provider:
        for tenant in ("acme", "nobody"):
            await call_it(provider, model="openai:m" if kind is LangChainProvider else "m", tenant=tenant)
    assert [request.headers.get("openai-organization") for request in server.requests] == [None, "org-of-ours"]
    assert server.requests[0].headers.get("openai-project") is None


async def test_a_tenants_key_is_enough_where_the_installation_has_none(
    server: ProviderServer, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    keys = ProviderKeys(str(path))
    async with aclosing(OpenAIProvider(Settings(), keys)) as provider:
        assert (await call_it(provider, tenant="acme")).text == said()
        assert server.requests[-1].headers["authorization"] == "Bearer sk-of-acme"
    monkeypatch.delenv("OPENAI_BASE_URL")
    async with aclosing(OpenAIProvider(Settings(), keys)) as provider:
        assert (await call_it(provider, tenant="other")).code == "provider_not_configured"


async def test_a_key_that_changes_is_used_from_the_next_call_on(server: ProviderServer, path: Path) -> None:
    async with aclosing(OpenAIProvider(Settings(), ProviderKeys(str(path)))) as provider:
        await call_it(provider, tenant="acme")
        path.write_text("acme:openai:sk-of-acme-the-second\n")
        await call_it(provider, tenant="acme")
        await call_it(provider, tenant="umbra")
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == ["Bearer sk-of-acme", "Bearer sk-of-acme-the-second", "Bearer test-openai-key"]


@pytest.mark.parametrize(
    "text",
    [
        "acme:openai",
        "acme:else:sk-canary",
        "a b:openai:sk-canary",
        "acme:openai:sk canary",
        "acme:openai:sk-canary\nacme:openai:sk-canary-2",
    ],
)
def test_a_file_that_is_none_leaves_the_keys_as_they_were_and_is_not_shown(
    path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ProviderKeys(str(path))
    path.write_text(text)
    with caplog.at_level(logging.DEBUG):
        assert [keys.of("acme", "openai") for _ in "123"] == ["sk-of-acme"] * 3
    assert len(caplog.records) == 1
    assert "canary" not in caplog.text
    path.unlink()
    assert keys.of("acme", "openai") == "sk-of-acme"
    path.write_text("acme:openai:sk-new\n")
    assert keys.of("acme", "openai") == "sk-new"


def test_a_worker_does_not_start_with_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for text in (None, "acme:openai:sk-canary with blanks"):
        if text is not None:
            path.write_text(text)
        with pytest.raises(TailraceError) as caught:
            build_providers(Settings(provider_keys_file=str(path)))
        assert "TAILRACE_PROVIDER_KEYS_FILE" in caught.value.message
        assert "canary" not in str(caught.value)


def test_clients_are_kept_for_so_many_keys_and_the_one_used_last_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text("\n".join(f"t{number}:openai:key-{number}" for number in range(100)))
    monkeypatch.setattr(credentials, "MOST_CLIENTS", 10)
    made: list[str | None] = []

    def make(key: str | None) -> list[str | None]:
        made.append(key)
        return [key]

    clients = Clients("openai", ProviderKeys(str(path)), make)
    for number in range(100):
        assert clients.of(f"t{number}") == [f"key-{number}"]
        assert clients.of("others") == [None]
        assert len(clients) <= 10
    assert made.count(None) == 1


def test_nothing_shows_a_key(path: Path) -> None:
    keys = ProviderKeys(str(path))
    clients = Clients("openai", keys, lambda key: object())
    clients.of("acme")
    assert "sk-" not in f"{keys!r} {clients!r}"


@pytest.mark.parametrize("name", ["OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS"])
def test_headers_of_the_environment_do_not_go_out_with_tenants_keys(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "Authorization: Bearer sk-installation")
    with pytest.raises(TailraceError, match=f"{name} .* unset it"):
        ProviderKeys(str(path))
    ProviderKeys("")
