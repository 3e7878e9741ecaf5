"""The `openai` provider with `params.background`: the real SDK against a local server that keeps its generations."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from shared.errors import ProviderError
from shared.events import Reasoning, Token, ToolCall
from shared.jobs import Message, Upstream
from shared.settings import Settings
from tests.support.provider_behaviour import Behaviour, ToolUse
from tests.support.provider_calls import CALL as PLAIN
from tests.support.provider_calls import Outcome, brisk_settings, call_it, leave, said
from tests.support.provider_frames import INPUT_TOKENS, SECRET
from tests.support.provider_server import ProviderServer
from worker.providers.base import Call, Finish, Piece, UpstreamLostError
from worker.providers.openai import OpenAIProvider
from worker.providers.openai_input import body
from worker.providers.openai_responses import _Answer
from worker.providers.pieces import CONTINUE

CALL = replace(PLAIN, params={"background": True})
RICH = Behaviour(
    reasoning=("think ", "hard"), tools=(ToolUse("a", "find", ('{"q":', '"é"}')), ToolUse("b", "open", ()))
)


@pytest.fixture
async def provider(server: ProviderServer) -> AsyncIterator[OpenAIProvider]:
    async with aclosing(OpenAIProvider(Settings())) as provider:
        yield provider


def covered(outcome: Outcome) -> Upstream:
    """Where a call got to."""
    return [piece for piece in outcome.pieces if isinstance(piece, Upstream)][-1]


async def in_parts(provider: OpenAIProvider, call: Call = CALL) -> tuple[Outcome, int]:
    """A call that is read on wherever it breaks: all that came, and how many parts it took."""
    whole, parts = Outcome(), 0
    upstream: Upstream | None = None
    while parts == 0 or whole.error is not None:
        assert parts < 50
        outcome = await call_it(provider, call, upstream=upstream)
        whole = Outcome(whole.pieces + outcome.pieces, outcome.error)
        upstream, parts = covered(whole), parts + 1
    return whole, parts


async def test_the_answer_is_the_models_text_then_its_usage_then_the_end(provider: OpenAIProvider) -> None:
    outcome = await call_it(provider, CALL)
    assert outcome.text == said()
    assert outcome.usage == {"input_tokens": INPUT_TOKENS, "output_tokens": 24, "cache_read_input_tokens": 3}
    assert outcome.finish == "stop"


async def test_the_generation_is_known_before_its_first_word(provider: OpenAIProvider) -> None:
    assert (await call_it(provider, CALL)).pieces[0] == Upstream("resp_1", 0)


async def test_every_word_is_followed_by_the_position_that_covers_it(provider: OpenAIProvider) -> None:
    pieces = (await call_it(provider, CALL)).pieces
    behind = [pieces[at + 1] for at, piece in enumerate(pieces) if isinstance(piece, Token)]
    assert len(behind) == 24
    assert all(isinstance(piece, Upstream) for piece in behind)


async def test_without_background_nothing_of_it_is_sent(provider: OpenAIProvider, server: ProviderServer) -> None:
    assert (await call_it(provider, PLAIN, params={"background": False})).text == said()
    request = await server.received(1)
    assert (request.path, "background" in request.body) == ("/v1/chat/completions", False)


@pytest.mark.parametrize("after", [0, 1, 7, 23])
@pytest.mark.parametrize("fault", ["drop", "end", "garbage", "broken"])
async def test_what_breaks_is_read_on_to_the_byte_and_paid_once(
    server: ProviderServer, provider: OpenAIProvider, fault: str, after: int
) -> None:
    server.script(Behaviour(fault, after, 1))
    whole, parts = await in_parts(provider)
    assert (whole.text, whole.finish, parts) == (said(), "stop", 2)
    assert len([piece for piece in whole.pieces if isinstance(piece, Token)]) == 24
    assert len(server.background.kept) == 1


async def test_a_stream_that_breaks_at_every_third_word_comes_out_whole(
    server: ProviderServer, provider: OpenAIProvider
) -> None:
    server.script(Behaviour("drop", 3, cut="surrogates"))
    whole, parts = await in_parts(provider)
    assert (whole.text, len(server.background.kept)) == (said(), 1)
    assert parts > 8


@pytest.mark.parametrize("after", range(1, 8))
async def test_reasoning_and_tool_calls_keep_their_places_where_the_same_worker_reads_on(
    server: ProviderServer, provider: OpenAIProvider, after: int
) -> None:
    server.script(replace(RICH, fault="drop", after=after, times=1, pieces=("Well: ",)))
    whole, _ = await in_parts(provider)
    assert whole.reasoning == "think hard"
    assert whole.text == "Well: "
    assert whole.tool_calls == [
        {"index": 0, "id": "a", "name": "find", "arguments": '{"q":"é"}'},
        {"index": 1, "id": "b", "name": "open", "arguments": "{}"},
    ]
    assert whole.finish == "tool_calls"
    assert len(server.background.kept) == 1


async def test_a_successor_that_begins_at_the_start_gets_everything(
    server: ProviderServer, provider: OpenAIProvider
) -> None:
    server.script(replace(RICH, fault="drop", after=4, times=1))
    first = await call_it(provider, CALL)
    again = await call_it(provider, CALL, upstream=Upstream(covered(first).id))
    assert again.reasoning == "think hard"
    assert [call["name"] for call in again.tool_calls] == ["find", "open"]
    assert server.background.reads == [None]


async def test_half_a_character_is_not_taken_for_read(server: ProviderServer, provider: OpenAIProvider) -> None:
    server.script(Behaviour("drop", 2, 1, pieces=("a", "b\ud83c", "\udf0a", "c")))
    first = await call_it(provider, CALL)
    assert first.text == "a"
    assert first.text + (await call_it(provider, CALL, upstream=covered(first))).text == "ab🌊c"


@pytest.mark.parametrize("status", [404, 400, 410])
async def test_a_generation_that_the_provider_does_not_know_is_lost_and_can_be_begun_anew(
    server: ProviderServer, provider: OpenAIProvider, status: int
) -> None:
    server.again(Behaviour(str(status)))
    error = (await call_it(provider, CALL, upstream=Upstream("resp_9", 4))).error
    assert isinstance(error, UpstreamLostError)
    assert (error.code, error.retryable) == ("provider_interrupted", True)
    assert SECRET not in f"{error} {error.detail}"


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (Behaviour("500"), "provider_unavailable"),
        (Behaviour("429"), "provider_rate_limited"),
        (Behaviour("401"), "provider_auth"),
        (Behaviour("refuse"), "provider_unavailable"),
        (Behaviour("hang"), "provider_timeout"),
    ],
    ids=str,
)
async def test_a_reading_that_fails_loses_no_generation(
    server: ProviderServer, behaviour: Behaviour, code: str
) -> None:
    server.again(behaviour, behaviour)  # the transport itself asks once more where a GET's connection broke
    async with aclosing(OpenAIProvider(brisk_settings())) as provider:
        error = (await call_it(provider, CALL, upstream=Upstream("resp_1", 4))).error
    assert error is not None
    assert (error.code, isinstance(error, UpstreamLostError)) == (code, False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": "server_error", "message": SECRET}, "provider_unavailable"),
        ({"code": "rate_limit_exceeded", "message": SECRET}, "provider_rate_limited"),
        ({"code": "invalid_prompt", "message": SECRET}, "provider_rejected"),
        ({"code": SECRET, "message": SECRET}, "provider_interrupted"),
    ],
    ids=str,
)
async def test_a_generation_that_fails_is_lost_with_its_code(
    server: ProviderServer, provider: OpenAIProvider, error: Any, code: str
) -> None:
    server.script(Behaviour("failed", 3, error=error))
    outcome = await call_it(provider, CALL)
    assert isinstance(outcome.error, UpstreamLostError)
    assert outcome.code == code
    assert SECRET not in f"{outcome.error} {outcome.error.detail}"
    assert len([piece for piece in outcome.pieces if isinstance(piece, Token)]) == 3


async def test_an_error_that_comes_again_at_once_is_the_generations_own(
    server: ProviderServer, provider: OpenAIProvider
) -> None:
    server.script(Behaviour("error", 3))
    first = await call_it(provider, CALL)
    again = await call_it(provider, CALL, upstream=covered(first))
    assert [isinstance(outcome.error, UpstreamLostError) for outcome in (first, again)] == [False, True]
    assert {first.code, again.code} == {"provider_unavailable"}


async def test_a_cancelled_generation_ends_for_whoever_reads_it(
    server: ProviderServer, provider: OpenAIProvider
) -> None:
    server.script(Behaviour(rate=0.5))
    pieces = provider.stream(CALL)
    first = await anext(pieces)
    assert isinstance(first, Upstream)
    await provider.cancel(first, "default")
    await pieces.aclose()
    error = (await call_it(provider, CALL, upstream=first)).error
    assert isinstance(error, UpstreamLostError)
    assert [kept.status for kept in server.background.kept] == ["cancelled"]


@pytest.mark.parametrize("behaviour", [Behaviour("404"), Behaviour("500"), Behaviour("refuse")], ids=str)
async def test_a_cancel_that_is_refused_is_an_error_of_ours(
    server: ProviderServer, provider: OpenAIProvider, behaviour: Behaviour
) -> None:
    server.again(behaviour)
    with pytest.raises(ProviderError):
        await provider.cancel(Upstream("resp_1"), "default")


async def test_a_closed_stream_closes_the_connection_and_the_generation_goes_on(
    server: ProviderServer, provider: OpenAIProvider
) -> None:
    server.script(Behaviour("stall", 2, 1))
    pieces = provider.stream(CALL)
    first = await anext(pieces)
    assert isinstance(first, Upstream)
    await pieces.aclose()
    await (await server.received(1)).left.wait()
    assert (await call_it(provider, CALL, upstream=first)).text == said()
    assert server.background.cancels == 0


@pytest.mark.parametrize(
    ("finish", "reason"), [("max_output_tokens", "length"), ("content_filter", "content_filter"), ("steered", "other")]
)
async def test_why_an_answer_ended_is_told_in_our_words(
    server: ProviderServer, provider: OpenAIProvider, finish: str, reason: str
) -> None:
    server.script(Behaviour(finish=finish))
    assert (await call_it(provider, CALL)).finish == reason


def _event(kind: str, number: int | None = None, **fields: Any) -> bytes:
    place = {} if number is None else {"sequence_number": number}
    return json.dumps({"type": kind, **place, **fields}).encode()


def fed(*events: bytes, upstream: Upstream | None = None) -> list[Piece]:
    """What the reader of an answer makes of events."""
    answer = _Answer(None, upstream)
    return [piece for event in events for piece in answer.feed(event)]


def test_a_server_that_ignores_the_position_shows_nothing_twice() -> None:
    events = [_event("response.output_text.delta", number, delta=str(number)) for number in range(4)]
    assert fed(*events, upstream=Upstream("r", 1)) == [Token("2"), Upstream("r", 2), Token("3"), Upstream("r", 3)]


def test_a_server_without_positions_is_read_once() -> None:
    created = _event("response.created", response={"id": "r"})
    assert fed(created, _event("response.output_text.delta", delta="a")) == [Token("a")]


def test_the_last_event_is_not_covered_so_that_a_successor_sees_it() -> None:
    created = _event("response.created", 0, response={"id": "r"})
    assert fed(created, _event("response.completed", 1, response={"id": "r"})) == [Upstream("r", 0)]


def test_what_is_no_content_gives_nothing() -> None:
    others = ["response.queued", "response.in_progress", "keepalive", "response.something.new"]
    assert [piece for kind in others for piece in fed(_event(kind, delta="x"))] == []


def test_a_refusal_is_text_and_both_kinds_of_reasoning_are_reasoning() -> None:
    assert fed(
        _event("response.refusal.delta", delta="No."),
        _event("response.reasoning_text.delta", delta="raw"),
        _event("response.reasoning_summary_part.added", summary_index=0),
        _event("response.reasoning_summary_text.delta", summary_index=0, delta="one"),
        _event("response.reasoning_summary_part.added", summary_index=1),
        _event("response.reasoning_summary_text.delta", summary_index=1, delta="two"),
    ) == [Token("No."), Reasoning("raw"), Reasoning("one"), Reasoning("\n\n"), Reasoning("two")]


def test_a_custom_tools_input_is_its_argument_text() -> None:
    item = {"type": "custom_tool_call", "id": "ctc", "call_id": "c", "name": "sql", "input": ""}
    pieces = fed(
        _event("response.output_item.added", output_index=2, item=item),
        _event("response.custom_tool_call_input.delta", output_index=2, delta="SELECT"),
    )
    assert pieces == [ToolCall(0, "c", "sql", ""), ToolCall(0, "", "", "SELECT")]


def test_a_tool_call_that_only_the_end_shows_counts_as_one() -> None:
    answer = _Answer(None)
    list(answer.feed(_event("response.completed", response={"id": "r", "output": [{"type": "function_call"}]})))
    assert list(answer.finish()) == [Finish("tool_calls")]


@pytest.mark.parametrize("by", ["cancel", "close"])
async def test_whoever_leaves_closes_the_connection_at_once(
    server: ProviderServer, provider: OpenAIProvider, by: str
) -> None:
    class Backgrounded:
        name = "openai"

        def stream(self, call: Call) -> Any:
            return provider.stream(replace(call, params={"background": True}))

        async def aclose(self) -> None: ...

    server.script(Behaviour("stall", 2))
    assert not (await leave(Backgrounded(), server, by=by)).answered


def test_a_call_is_said_in_the_words_of_the_other_api() -> None:
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
        {"type": "file", "file": {"file_id": "f"}},
    ]
    called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    function = {"name": "f", "parameters": {"type": "object"}}
    call = Call(
        job_id="job",
        model="m",
        messages=[
            Message("user", parts),
            Message("assistant", tool_calls=[called]),
            Message("tool", "7", None, None, "c"),
        ],
        system="Be brief.",
        max_tokens=9,
        temperature=0.5,
        params={
            "background": True,
            "tools": [{"type": "function", "function": function}, {"type": "web_search"}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}},
            "reasoning_effort": "low",
            "verbosity": "high",
            "top_p": 0.9,
            "stop": None,
        },
    )
    assert body(call) == {
        "model": "m",
        "background": True,
        "stream": True,
        "store": True,
        "instructions": "Be brief.",
        "max_output_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}, "verbosity": "high"},
        "tools": [{"type": "function", "strict": False, **function}, {"type": "web_search"}],
        "tool_choice": {"type": "function", "name": "f"},
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": "data:x", "detail": "low"},
                    {"type": "input_file", "file_id": "f"},
                ],
            },
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "7"},
        ],
    }


def test_the_limit_of_tokens_may_come_under_either_name() -> None:
    assert body(replace(CALL, params={"max_completion_tokens": 5}))["max_output_tokens"] == 5


def test_a_partial_answer_is_continued_where_it_broke_off() -> None:
    items = body(replace(CALL, continue_text="So far"))["input"]
    assert [item["role"] for item in items] == ["user", "assistant", "user"]
    assert (items[1]["content"], items[2]["content"]) == ("So far", CONTINUE)
