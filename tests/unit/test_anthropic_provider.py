"""The `anthropic` provider: the real SDK against a local server."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from shared.errors import ProviderError
from shared.events import Token
from shared.jobs import Message
from shared.settings import Settings
from tests.support.provider_behaviour import Behaviour, ToolUse
from tests.support.provider_calls import CALL, brisk_settings, call_it, failures, leave, said
from tests.support.provider_frames import INPUT_TOKENS, SECRET
from tests.support.provider_server import ProviderServer
from worker.providers.anthropic import AnthropicProvider, _Answer
from worker.providers.anthropic_messages import convert
from worker.providers.base import Finish
from worker.providers.pieces import CONTINUE


@pytest.fixture
async def provider(server: ProviderServer) -> AsyncIterator[AnthropicProvider]:
    async with aclosing(AnthropicProvider(Settings(anthropic_max_tokens=77))) as provider:
        yield provider


async def test_the_answer_is_the_models_text_with_its_usage_and_the_end(provider: AnthropicProvider) -> None:
    outcome = await call_it(provider)
    assert outcome.text == said()
    assert outcome.usage == {"input_tokens": INPUT_TOKENS, "output_tokens": 24, "cache_read_input_tokens": 3}
    assert outcome.finish == "stop"


async def test_the_request_says_what_the_job_said(provider: AnthropicProvider, server: ProviderServer) -> None:
    await call_it(provider, system="Be brief.", max_tokens=9, params={"stop_sequences": ["x"]})
    request = await server.received(1)
    assert request.body == {
        "model": "test-model",
        "system": "Be brief.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Where does the water go?"}]}],
        "stream": True,
        "max_tokens": 9,
        "stop_sequences": ["x"],
    }
    assert "test-anthropic-key" in request.headers["authorization"]


async def test_sampling_goes_out_under_the_api_version_that_still_knows_it(
    provider: AnthropicProvider, server: ProviderServer
) -> None:
    await call_it(provider, temperature=0.5, params={"top_k": 4})
    await call_it(provider)
    asked, plain = await server.received(1), await server.received(2)
    assert (asked.body["temperature"], asked.body["top_k"]) == (0.5, 4)
    assert asked.headers["anthropic-version"] == "2023-06-01"
    assert plain.headers["anthropic-version"] >= "2026-10-21"


async def test_a_job_without_a_token_limit_gets_the_configured_one(
    provider: AnthropicProvider, server: ProviderServer
) -> None:
    await call_it(provider)
    assert (await server.received(1)).body["max_tokens"] == 77


async def test_a_partial_answer_is_continued_where_it_broke_off(
    provider: AnthropicProvider, server: ProviderServer
) -> None:
    outcome = await call_it(provider, continue_text=said()[:30])
    assert said()[:30] + outcome.text == said()
    sent = (await server.received(1)).body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert sent[-1]["content"] == [{"type": "text", "text": CONTINUE}]


async def test_thinking_and_tool_calls_are_told_apart_from_text(
    provider: AnthropicProvider, server: ProviderServer
) -> None:
    tools = (ToolUse("a", "find", ('{"q":', '"é"}')), ToolUse("b", "open", ()))
    server.script(Behaviour(reasoning=("think ", "hard"), pieces=("Well: ",), tools=tools))
    outcome = await call_it(provider)
    assert outcome.reasoning == "think hard"
    assert outcome.text == "Well: "
    assert outcome.tool_calls == [
        {"index": 0, "id": "a", "name": "find", "arguments": '{"q":"é"}'},
        {"index": 1, "id": "b", "name": "open", "arguments": "{}"},
    ]
    assert outcome.finish == "tool_calls"


@pytest.mark.parametrize(("behaviour", "code"), failures(gateway_timeout="provider_timeout"))
async def test_every_failure_gets_its_code_and_is_not_retried_here(
    server: ProviderServer, behaviour: Behaviour, code: str
) -> None:
    impatient = behaviour.fault in {"hang", "stall"}
    server.script(behaviour)
    async with aclosing(AnthropicProvider(brisk_settings() if impatient else Settings())) as provider:
        outcome = await call_it(provider)
    assert outcome.code == code
    assert len(server.requests) == 1
    assert len([piece for piece in outcome.pieces if isinstance(piece, Token)]) == behaviour.after
    assert outcome.finish is None


async def test_a_server_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ProviderServer() as gone:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", gone.anthropic_url)
    async with aclosing(AnthropicProvider(Settings())) as provider:
        assert (await call_it(provider)).code == "provider_unavailable"


@pytest.mark.parametrize("fault", ["401", "quota", "error", "400"])
async def test_the_providers_own_words_stay_inside(
    server: ProviderServer, provider: AnthropicProvider, fault: str
) -> None:
    server.script(Behaviour(fault))
    error = (await call_it(provider)).error
    assert error is not None
    assert SECRET not in f"{error.message} {error.detail} {error}"
    assert error.__cause__ is None
    assert "request_id=req_1" in error.detail


async def test_a_rate_limit_says_how_long_to_wait(server: ProviderServer, provider: AnthropicProvider) -> None:
    server.script(Behaviour("429", headers=(("retry-after", "7"),)))
    error = (await call_it(provider)).error
    assert error is not None
    assert (error.retry_after_s, error.retryable) == (7.0, True)


async def test_without_a_key_the_error_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    error = (await call_it(AnthropicProvider(Settings()))).error
    assert error is not None
    assert (error.code, error.retryable) == ("provider_not_configured", False)
    assert error.message == "Set ANTHROPIC_API_KEY in the workers' environment."


@pytest.mark.parametrize("behaviour", [Behaviour("hang"), Behaviour("stall"), Behaviour("stall", 2)], ids=str)
async def test_a_cancelled_call_closes_the_connection_at_once(
    server: ProviderServer, provider: AnthropicProvider, behaviour: Behaviour
) -> None:
    server.script(behaviour)
    assert not (await leave(provider, server, by="cancel")).answered


async def test_a_closed_stream_closes_the_connection(server: ProviderServer, provider: AnthropicProvider) -> None:
    server.script(Behaviour("stall", 2))
    assert not (await leave(provider, server, by="close")).answered


@pytest.mark.parametrize("how", ["utf8", "surrogates"])
async def test_text_cut_anywhere_comes_out_whole(server: ProviderServer, provider: AnthropicProvider, how: str) -> None:
    server.script(Behaviour(cut=how, tokens=40))
    assert (await call_it(provider)).text == said(tokens=40)


async def test_an_empty_answer_is_just_an_end(server: ProviderServer, provider: AnthropicProvider) -> None:
    server.script(Behaviour("empty"))
    outcome = await call_it(provider)
    assert (outcome.text, outcome.finish) == ("", "stop")


async def test_a_stop_reason_without_message_stop_is_no_end(
    server: ProviderServer, provider: AnthropicProvider
) -> None:
    server.script(Behaviour("late"))
    assert (await call_it(provider)).code == "provider_interrupted"


async def test_a_whole_answer_is_not_held_back_by_a_response_that_does_not_end(
    server: ProviderServer, provider: AnthropicProvider
) -> None:
    server.script(Behaviour("linger"))
    outcome = await call_it(provider)
    assert (outcome.text, outcome.finish) == (said(), "stop")


async def test_the_next_answer_comes_over_the_same_connection(
    server: ProviderServer, provider: AnthropicProvider
) -> None:
    await call_it(provider)
    await call_it(provider)
    assert (server.accepted, len(server.requests)) == (1, 2)


def _feed(*events: dict[str, Any]) -> list[object]:
    answer = _Answer(None)
    fed = [piece for event in events for piece in answer.feed(json.dumps(event).encode())]
    return [*fed, *answer.finish()]


@pytest.mark.parametrize(
    ("stop_reason", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "other"),
    ],
)
def test_stop_reasons_are_told_in_our_words(stop_reason: str, reason: str) -> None:
    events = {"type": "message_delta", "delta": {"stop_reason": stop_reason}}, {"type": "message_stop"}
    assert _feed(*events) == [Finish(reason)]  # type: ignore[arg-type]


def test_tools_that_run_at_anthropics_are_not_the_clients_to_call() -> None:
    block = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    delta = {"type": "input_json_delta", "partial_json": '{"q":1}'}
    assert _feed(
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "message_stop"},
    ) == [Finish("other")]


def test_system_messages_become_the_system_text_wherever_they_stand() -> None:
    messages = [Message("system", "One."), Message("user", "Hi"), Message("developer", "Two.")]
    system, turns = convert(messages, "Zero.")
    assert system == "Zero.\n\nOne.\n\nTwo."
    assert turns == [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]


def test_parallel_tool_results_go_back_in_the_turn_after_the_calls() -> None:
    calls = [{"id": name, "function": {"name": name, "arguments": '{"n":1}'}} for name in ("a", "b")]
    messages = [
        Message("assistant", "", tool_calls=calls),
        Message("tool", "1", tool_call_id="a"),
        Message("tool", "2", tool_call_id="b"),
        Message("user", "So?"),
    ]
    _, turns = convert(messages, None)
    assert turns == [
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": name, "name": name, "input": {"n": 1}} for name in ("a", "b")],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "1"}]},
                {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "2"}]},
                {"type": "text", "text": "So?"},
            ],
        },
    ]


def test_images_in_openais_form_become_anthropics() -> None:
    urls = "https://example.org/a.png", "data:image/png;base64,QUJD"
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    _, turns = convert([Message("user", parts)], None)
    assert turns[0]["content"] == [
        {"type": "image", "source": {"type": "url", "url": urls[0]}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
    ]


@pytest.mark.parametrize(
    ("message", "where"),
    [
        (Message("function", "x"), "messages.0.role"),
        (Message("user", [{"text": "no type"}]), "messages.0.content"),
        (Message("assistant", tool_calls=[{"id": "a"}]), "messages.0.tool_calls"),
        (Message("assistant", tool_calls=[{"function": {"arguments": "[1]"}}]), "messages.0.tool_calls"),
        (Message("assistant", tool_calls=[{"function": {"arguments": '{"n":'}}]), "messages.0.tool_calls"),
    ],
    ids=str,
)
def test_what_anthropic_has_no_form_for_is_refused_by_name(message: Message, where: str) -> None:
    with pytest.raises(ProviderError) as caught:
        convert([*CALL.messages[:0], message], None)
    assert caught.value.code == "provider_rejected"
    assert where in caught.value.message
