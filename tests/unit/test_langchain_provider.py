"""The `langchain` provider: real models against a local server."""

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from shared.events import Token
from shared.jobs import Message
from shared.settings import Settings
from tests.support.provider_behaviour import Behaviour, ToolUse
from tests.support.provider_calls import CALL, brisk_settings, call_it, failures, leave, said
from tests.support.provider_frames import INPUT_TOKENS, SECRET
from tests.support.provider_server import ProviderServer
from worker.providers.langchain import LangChainProvider

VENDORS = ["openai", "anthropic"]


@pytest.fixture
async def provider(server: ProviderServer) -> AsyncIterator[LangChainProvider]:
    async with aclosing(LangChainProvider(Settings(anthropic_max_tokens=77))) as provider:
        yield provider


@pytest.mark.parametrize("vendor", VENDORS)
async def test_the_answer_is_the_models_text_then_its_usage_then_the_end(
    provider: LangChainProvider, vendor: str
) -> None:
    outcome = await call_it(provider, model=f"{vendor}:test-model")
    assert outcome.text == said()
    assert outcome.usage == {"input_tokens": INPUT_TOKENS, "output_tokens": 24, "cache_read_input_tokens": 3}
    assert outcome.finish == "stop"


async def test_the_request_says_what_the_job_said(provider: LangChainProvider, server: ProviderServer) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    params = {"seed": 4, "stop": ["x"], "tools": [tool], "tool_choice": "auto"}
    await call_it(
        provider, model="openai:m", system="Be brief.", max_tokens=9, temperature=0.5, params=params
    )  # fmt: skip
    sent = (await server.received(1)).body
    assert [message["content"] for message in sent["messages"]] == ["Be brief.", "Where does the water go?"]
    assert (sent["model"], sent["max_completion_tokens"], sent["temperature"]) == ("m", 9, 0.5)
    assert (sent["seed"], sent["stop"], sent["tool_choice"]) == (4, ["x"], "auto")
    assert sent["tools"][0]["function"]["name"] == "f"
    assert sent["stream_options"] == {"include_usage": True}


async def test_anthropic_gets_a_token_limit_and_sampling_under_the_version_that_knows_it(
    provider: LangChainProvider, server: ProviderServer
) -> None:
    await call_it(provider, model="anthropic:m", temperature=0.5)
    request = await server.received(1)
    assert (request.body["max_tokens"], request.body["temperature"]) == (77, 0.5)
    assert request.headers["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_conversation_with_tools_goes_out_and_calls_come_in(
    provider: LangChainProvider, server: ProviderServer, vendor: str
) -> None:
    tools = (ToolUse("a", "find", ('{"q":', '"é"}')), ToolUse("b", "open", ()))
    server.script(Behaviour(pieces=("Well: ",), tools=tools))
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [*CALL.messages, Message("assistant", tool_calls=[call]), Message("tool", "7", tool_call_id="c")]
    offered = {"type": "function", "function": {"name": "find", "description": "d", "parameters": {"type": "object"}}}
    outcome = await call_it(provider, model=f"{vendor}:m", messages=messages, params={"tools": [offered]})
    assert outcome.text == "Well: "
    assert outcome.tool_calls == [
        {"index": 0, "id": "a", "name": "find", "arguments": '{"q":"é"}'},
        {"index": 1, "id": "b", "name": "open", "arguments": "{}"},
    ]
    assert outcome.finish == "tool_calls"
    assert "7" in str((await server.received(1)).body["messages"][-1])


async def test_anthropics_thinking_is_told_apart_from_text(provider: LangChainProvider, server: ProviderServer) -> None:
    server.script(Behaviour(reasoning=("think ", "hard"), pieces=("Well.",)))
    thinking = {"type": "enabled", "budget_tokens": 1024}
    outcome = await call_it(provider, model="anthropic:m", max_tokens=2000, params={"thinking": thinking})
    assert (outcome.reasoning, outcome.text) == ("think hard", "Well.")


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_partial_answer_is_continued_where_it_broke_off(provider: LangChainProvider, vendor: str) -> None:
    outcome = await call_it(provider, model=f"{vendor}:test-model", continue_text=said()[:30])
    assert said()[:30] + outcome.text == said()


# What LangChain does with a page instead of a stream: it finds no chunk in it.
def _of_langchain(rows: list[Any]) -> list[Any]:
    return [pytest.param(row.values[0], "provider_interrupted", id=row.id) if "page" in row.id else row for row in rows]


ROWS = [
    pytest.param(vendor, *row.values, id=f"{vendor}: {row.id}")
    for vendor, gateway_timeout in (("openai", "provider_unavailable"), ("anthropic", "provider_timeout"))
    for row in _of_langchain(failures(gateway_timeout=gateway_timeout))
]


@pytest.mark.parametrize(("vendor", "behaviour", "code"), ROWS)
async def test_every_failure_of_the_vendor_underneath_gets_its_code(
    server: ProviderServer, vendor: str, behaviour: Behaviour, code: str
) -> None:
    impatient = behaviour.fault in {"hang", "stall"}
    server.script(behaviour)
    async with aclosing(LangChainProvider(brisk_settings() if impatient else Settings())) as provider:
        outcome = await call_it(provider, model=f"{vendor}:m")
    assert outcome.code == code
    assert len(server.requests) == 1
    assert len([piece for piece in outcome.pieces if isinstance(piece, Token)]) == behaviour.after
    assert outcome.error is not None
    assert SECRET not in f"{outcome.error.message} {outcome.error.detail}"


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("by", ["cancel", "close"])
async def test_a_call_that_is_left_closes_the_connection(
    server: ProviderServer, provider: LangChainProvider, vendor: str, by: str
) -> None:
    server.script(Behaviour("stall", 2))
    assert not (await leave(provider, server, by=by, model=f"{vendor}:m")).answered


@pytest.mark.parametrize("how", ["utf8", "surrogates"])
@pytest.mark.parametrize("vendor", VENDORS)
async def test_text_cut_anywhere_comes_out_whole(
    server: ProviderServer, provider: LangChainProvider, vendor: str, how: str
) -> None:
    server.script(Behaviour(cut=how, tokens=40))
    assert (await call_it(provider, model=f"{vendor}:test-model")).text == said(tokens=40)


async def test_an_empty_answer_is_just_an_end(server: ProviderServer, provider: LangChainProvider) -> None:
    server.script(Behaviour("empty"))
    outcome = await call_it(provider, model="openai:m")
    assert (outcome.text, outcome.finish) == ("", "stop")


async def test_the_next_answer_comes_over_the_same_connection(
    server: ProviderServer, provider: LangChainProvider
) -> None:
    await call_it(provider, model="openai:m")
    await call_it(provider, model="openai:m")
    assert (server.accepted, len(server.requests)) == (1, 2)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("gpt-4o", "provider_rejected", "TAILRACE_CHAINS"),
        ("openai:", "provider_rejected", "provider:model"),
        ("nobody:m", "provider_not_configured", "nobody:m"),
        ("mistralai:m", "provider_not_configured", "package"),
    ],
)
async def test_a_model_that_cannot_be_made_is_named(
    provider: LangChainProvider, name: str, code: str, words: str
) -> None:
    error = (await call_it(provider, model=name)).error
    assert error is not None
    assert error.code == code
    assert words in error.message


@pytest.mark.parametrize("vendor", VENDORS)
async def test_without_a_key_the_error_names_the_variable(monkeypatch: pytest.MonkeyPatch, vendor: str) -> None:
    monkeypatch.delenv(f"{vendor.upper()}_API_KEY", raising=False)
    monkeypatch.delenv(f"{vendor.upper()}_BASE_URL", raising=False)
    error = (await call_it(LangChainProvider(Settings()), model=f"{vendor}:m")).error
    assert error is not None
    assert error.code == "provider_not_configured"
    assert f"{vendor.upper()}_API_KEY" in error.message


async def test_without_the_extra_the_error_names_it(
    provider: LangChainProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "langchain.chat_models", None)
    error = (await call_it(provider, model="openai:m")).error
    assert error is not None
    assert error.code == "provider_not_configured"
    assert "`langchain` extra" in error.message
