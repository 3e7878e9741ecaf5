"""The `openai` provider: the real SDK against a local server."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from shared.errors import ProviderError
from shared.events import Reasoning, Token
from shared.jobs import Message
from shared.settings import Settings
from tests.support.provider_behaviour import Behaviour, ToolUse
from tests.support.provider_calls import CALL, brisk_settings, call_it, failures, leave, said
from tests.support.provider_frames import INPUT_TOKENS, SECRET
from tests.support.provider_server import ProviderServer
from worker.providers.base import Finish
from worker.providers.openai import OpenAIProvider, _Answer, _body
from worker.providers.pieces import CONTINUE


@pytest.fixture
async def provider(server: ProviderServer) -> AsyncIterator[OpenAIProvider]:
    async with aclosing(OpenAIProvider(Settings())) as provider:
        yield provider


async def test_the_answer_is_the_models_text_then_its_usage_then_the_end(provider: OpenAIProvider) -> None:
    outcome = await call_it(provider)
    assert outcome.text == said()
    assert outcome.usage == {"input_tokens": INPUT_TOKENS, "output_tokens": 24, "cache_read_input_tokens": 3}
    assert outcome.finish == "stop"


async def test_the_request_says_what_the_job_said(provider: OpenAIProvider, server: ProviderServer) -> None:
    await call_it(provider, system="Be brief.", max_tokens=9, temperature=0.5, params={"seed": 4, "stop": ["x"]})
    request = await server.received(1)
    assert request.body == {
        "model": "test-model",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Where does the water go?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 4,
        "stop": ["x"],
    }
    assert request.headers["authorization"] == "Bearer test-openai-key"


def test_openai_itself_gets_the_token_limit_under_its_new_name() -> None:
    call = CALL.__class__(job_id="job", model="m", messages=CALL.messages, max_tokens=9)
    assert _body(call, official=True)["max_completion_tokens"] == 9


async def test_tool_results_go_back_in_the_shape_they_came(provider: OpenAIProvider, server: ProviderServer) -> None:
    tool_call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [*CALL.messages, Message("assistant", tool_calls=[tool_call]), Message("tool", "7", tool_call_id="c")]
    await call_it(provider, messages=messages)
    sent = (await server.received(1)).body["messages"]
    assert sent[1:] == [
        {"role": "assistant", "tool_calls": [tool_call]},
        {"role": "tool", "content": "7", "tool_call_id": "c"},
    ]


async def test_a_partial_answer_is_continued_where_it_broke_off(
    provider: OpenAIProvider, server: ProviderServer
) -> None:
    outcome = await call_it(provider, continue_text=said()[:30])
    assert said()[:30] + outcome.text == said()
    sent = (await server.received(1)).body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert sent[-1]["content"] == CONTINUE


async def test_reasoning_and_tool_calls_are_told_apart_from_text(
    provider: OpenAIProvider, server: ProviderServer
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
    assert outcome.usage["reasoning_output_tokens"] == 2


@pytest.mark.parametrize(("behaviour", "code"), failures(gateway_timeout="provider_unavailable"))
async def test_every_failure_gets_its_code_and_is_not_retried_here(
    server: ProviderServer, behaviour: Behaviour, code: str
) -> None:
    impatient = behaviour.fault in {"hang", "stall"}
    server.script(behaviour)
    async with aclosing(OpenAIProvider(brisk_settings() if impatient else Settings())) as provider:
        outcome = await call_it(provider)
    assert outcome.code == code
    assert len(server.requests) == 1
    assert len([piece for piece in outcome.pieces if isinstance(piece, Token)]) == behaviour.after
    assert outcome.finish is None


async def test_a_server_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ProviderServer() as gone:
        monkeypatch.setenv("OPENAI_BASE_URL", gone.openai_url)
    async with aclosing(OpenAIProvider(Settings())) as provider:
        assert (await call_it(provider)).code == "provider_unavailable"


@pytest.mark.parametrize("fault", ["401", "quota", "error", "400"])
async def test_the_providers_own_words_stay_inside(
    server: ProviderServer, provider: OpenAIProvider, fault: str
) -> None:
    server.script(Behaviour(fault))
    error = (await call_it(provider)).error
    assert error is not None
    assert SECRET not in f"{error.message} {error.detail} {error}"
    assert error.__cause__ is None
    assert "request_id=req_1" in error.detail


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ((("retry-after", "2.5"),), 2.5),
        ((("retry-after", "9"), ("retry-after-ms", "1500")), 1.5),
        ((("retry-after", "Mon, 01 Jan 2001 00:00:00 GMT"),), 0.0),
        ((("retry-after", "soon"),), None),
        ((("retry-after", "nan"),), None),
        ((), None),
    ],
)
async def test_a_rate_limit_says_how_long_to_wait(
    server: ProviderServer, provider: OpenAIProvider, headers: tuple[tuple[str, str], ...], seconds: float | None
) -> None:
    server.script(Behaviour("429", headers=headers))
    error = (await call_it(provider)).error
    assert error is not None
    assert error.retry_after_s == seconds
    assert error.retryable


async def test_without_a_key_the_error_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    error = (await call_it(OpenAIProvider(Settings()))).error
    assert error is not None
    assert (error.code, error.retryable) == ("provider_not_configured", False)
    assert error.message == "Set OPENAI_API_KEY in the workers' environment."


async def test_a_base_url_may_name_a_user_and_a_password(
    server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url.replace("://", "://user:p%40ss@"))
    async with aclosing(OpenAIProvider(Settings())) as provider:
        assert (await call_it(provider)).text == said()
    assert (await server.received(1)).headers["authorization"] == "Basic dXNlcjpwQHNz"


@pytest.mark.parametrize("base_url", ["localhost:11434/v1", "nonsense"])
async def test_a_base_url_that_is_none_is_a_fault_of_configuration(
    monkeypatch: pytest.MonkeyPatch, base_url: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    async with aclosing(OpenAIProvider(Settings())) as provider:
        error = (await call_it(provider)).error
    assert error is not None
    assert (error.code, "base URL" in error.message) == ("provider_not_configured", True)


async def test_a_local_server_needs_no_key(server: ProviderServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    async with aclosing(OpenAIProvider(Settings())) as provider:
        assert (await call_it(provider)).text == said()


@pytest.mark.parametrize("behaviour", [Behaviour("hang"), Behaviour("stall"), Behaviour("stall", 2)], ids=str)
async def test_a_cancelled_call_closes_the_connection_at_once(
    server: ProviderServer, provider: OpenAIProvider, behaviour: Behaviour
) -> None:
    server.script(behaviour)
    assert not (await leave(provider, server, by="cancel")).answered


async def test_a_closed_stream_closes_the_connection(server: ProviderServer, provider: OpenAIProvider) -> None:
    server.script(Behaviour("stall", 2))
    assert not (await leave(provider, server, by="close")).answered


@pytest.mark.parametrize("how", ["utf8", "surrogates"])
async def test_text_cut_anywhere_comes_out_whole(server: ProviderServer, provider: OpenAIProvider, how: str) -> None:
    server.script(Behaviour(cut=how, tokens=40))
    outcome = await call_it(provider)
    assert outcome.text == said(tokens=40)
    assert all(piece.text.encode() for piece in outcome.pieces if isinstance(piece, Token))


async def test_half_a_character_at_the_end_becomes_a_replacement_character(
    server: ProviderServer, provider: OpenAIProvider
) -> None:
    server.script(Behaviour(pieces=("a\ud83c", "\udf0a", " b\udf0a", "c", "\ud83c")))
    assert (await call_it(provider)).text == "a🌊 b\ufffdc\ufffd"


async def test_an_empty_answer_is_just_an_end(server: ProviderServer, provider: OpenAIProvider) -> None:
    server.script(Behaviour("empty"))
    outcome = await call_it(provider)
    assert (outcome.text, outcome.finish) == ("", "stop")


@pytest.mark.parametrize("fault", ["late", "linger"])
async def test_a_whole_answer_is_not_spoilt_by_what_breaks_behind_it(
    server: ProviderServer, provider: OpenAIProvider, fault: str
) -> None:
    server.script(Behaviour(fault))
    outcome = await call_it(provider)
    assert (outcome.text, outcome.finish) == (said(), "stop")


async def test_the_next_answer_comes_over_the_same_connection(server: ProviderServer, provider: OpenAIProvider) -> None:
    await call_it(provider)
    await call_it(provider)
    assert (server.accepted, len(server.requests)) == (1, 2)


def _chunk(**choice: object) -> bytes:
    return json.dumps({"choices": [{"index": 0, **choice}]}).encode()


def test_usage_is_not_waited_for_without_end() -> None:
    answer = _Answer(None)
    assert answer.patience_s is None
    list(answer.feed(_chunk(delta={}, finish_reason="stop")))
    assert answer.patience_s is not None


def test_a_finish_reason_on_every_chunk_does_not_end_the_answer_early() -> None:
    answer = _Answer(None)
    frames = [_chunk(delta={"content": text}, finish_reason="stop") for text in "ab"]
    assert [piece for frame in frames for piece in answer.feed(frame)] == [Token("a"), Token("b")]
    assert list(answer.finish()) == [Finish("stop")]


def test_parallel_tool_calls_under_one_index_are_kept_apart_by_their_ids() -> None:
    answer = _Answer(None)
    calls = [{"index": 0, "id": name, "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]
    pieces = [piece for call in calls for piece in answer.feed(_chunk(delta={"tool_calls": [call]}))]
    assert [getattr(piece, "index", None) for piece in pieces] == [0, 1]


def test_other_servers_names_for_reasoning_are_understood() -> None:
    assert list(_Answer(None).feed(_chunk(delta={"reasoning": "hm"}))) == [Reasoning("hm")]


@pytest.mark.parametrize(
    ("said_by_server", "reason"),
    [("length", "length"), ("function_call", "tool_calls"), ("content_filter", "content_filter"), ("eos", "other")],
)
def test_finish_reasons_are_told_in_our_words(said_by_server: str, reason: str) -> None:
    answer = _Answer(None)
    list(answer.feed(_chunk(delta={}, finish_reason=said_by_server)))
    assert list(answer.finish()) == [Finish(reason)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"type": "insufficient_quota", "code": "insufficient_quota"}, "provider_quota"),
        ({"code": "rate_limit_exceeded", "type": "requests"}, "provider_rate_limited"),
        ({"code": 429, "message": SECRET}, "provider_rate_limited"),
        ({"type": "invalid_request_error"}, "provider_rejected"),
        ({"type": "server_error", "code": "insufficient_quota"}, "provider_quota"),
        ({"message": SECRET}, "provider_interrupted"),
        ({"type": SECRET, "code": SECRET}, "provider_interrupted"),
        (SECRET, "provider_interrupted"),
    ],
    ids=str,
)
def test_an_error_in_the_stream_is_sorted_by_what_it_says_of_itself(error: object, code: str) -> None:
    with pytest.raises(ProviderError) as caught:
        list(_Answer("req_1").feed(json.dumps({"error": error}).encode()))
    assert caught.value.code == code
    assert SECRET not in caught.value.detail
