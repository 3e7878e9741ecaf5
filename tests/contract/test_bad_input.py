"""What the server refuses: each time a problem with a code, the field at fault, and a way out."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.contract.conftest import needs_our_node
from tests.support.wire import Json, Wire, assert_problem, scripted

BASE: Json = {"provider": "scripted", "model": "demo", "prompt": "hi"}
LIMIT = 262_144
HUGE = 10**100


def but(**fields: Any) -> Json:
    """A good body, but for these fields."""
    return {**BASE, **fields}


def messages(*items: Any) -> Json:
    """A body of these messages."""
    return {"provider": "scripted", "model": "demo", "messages": list(items)}


def params(provider: str = "scripted", **values: Any) -> Json:
    """A body with these params."""
    return but(provider=provider, params=values)


TYPES: dict[str, tuple[Json, str]] = {
    "a model that is a number": (but(model=5), "model"),
    "a model that is null": (but(model=None), "model"),
    "a provider that is a list": (but(provider=["scripted"]), "provider"),
    "a prompt that is an object": (but(prompt={}), "prompt"),
    "messages that are a text": (but(prompt=None, messages="hi"), "messages"),
    "a message that is a text": (messages("hi"), "messages.0"),
    "a number in quotes": (but(max_tokens="5"), "max_tokens"),
    "a truth for a number": (but(max_tokens=True), "max_tokens"),
    "a fraction for a whole number": (but(priority=1.5), "priority"),
    "params that are a list": (but(params=[]), "params"),
    "metadata that is a number": (but(metadata={"a": 1}), "metadata.a"),
}
BOUNDS: dict[str, tuple[Json, str]] = {
    "an empty model": (but(model=""), "model"),
    "a blank in a model": (but(model="a b"), "model"),
    "a model of 201 characters": (but(model="m" * 201), "model"),
    "an empty prompt": (but(prompt=""), "prompt"),
    "no tokens": (but(max_tokens=0), "max_tokens"),
    "negative tokens": (but(max_tokens=-1), "max_tokens"),
    "more tokens than there are": (but(max_tokens=HUGE), "max_tokens"),
    "a cold temperature": (but(temperature=-0.1), "temperature"),
    "a hot temperature": (but(temperature=2.1), "temperature"),
    "a temperature beyond all floats": (but(temperature=10**400), "temperature"),
    "a priority of ten": (but(priority=10), "priority"),
    "a negative priority": (but(priority=-1), "priority"),
    "an unknown way to interrupt": (but(on_interrupt="retry"), "on_interrupt"),
    "17 metadata": (but(metadata={str(n): "" for n in range(17)}), "metadata"),
    "long metadata": (but(metadata={"a": "x" * 513}), "metadata.a"),
}
MESSAGES: dict[str, tuple[Json, str]] = {
    "no messages": (messages(), "messages"),
    "1001 messages": (messages(*[{"role": "user", "content": "x"}] * 1001), "messages"),
    "an unknown role": (messages({"role": "wizard", "content": "x"}), "messages.0.role"),
    "no role": (messages({"content": "x"}), "messages.0.role"),
    "no content": (messages({"role": "user"}), "messages.0"),
    "empty content": (messages({"role": "user", "content": ""}), "messages.0"),
    "empty parts": (messages({"role": "user", "content": []}), "messages.0"),
    "an unknown field": (messages({"role": "user", "content": "x", "mood": "good"}), "messages.0.mood"),
    "the second one": (messages({"role": "user", "content": "x"}, {"role": "x", "content": "x"}), "messages.1.role"),
}
PARAMS: dict[str, tuple[Json, str, str]] = {
    "a transport option": (params(timeout=5), "unsupported_param", "params.timeout"),
    "a base URL": (params("openai", base_url="http://x"), "unsupported_param", "params.base_url"),
    "headers": (params("anthropic", extra_headers={}), "unsupported_param", "params.extra_headers"),
    "stream": (params("openai", stream=False), "unsupported_param", "params.stream"),
    "n": (params("openai", n=2), "unsupported_param", "params.n"),
    "model": (params("langchain", model="x"), "unsupported_param", "params.model"),
    "messages": (params("anthropic", messages=[]), "unsupported_param", "params.messages"),
    "another API's": (params("openai", background=True, seed=1), "unsupported_param", "params.seed"),
    "another provider's": (params("anthropic", seed=1), "unsupported_param", "params.seed"),
    "one that is deeper": (params(fault={"kind": "drop", "how": "hard"}), "unsupported_param", "params.fault.how"),
    "out of bounds": (params("openai", top_p=1.1), "invalid_request", "params.top_p"),
    "of another type": (params("openai", seed="7"), "invalid_request", "params.seed"),
    "an unknown kind": (params(fault={"kind": "boom"}), "invalid_request", "params.fault.kind"),
    "negative": (params(tokens_per_s=-1), "invalid_request", "params.tokens_per_s"),
}
UNSOUND = ["prompt", "system", "provider", "model", "on_interrupt"]


@pytest.mark.requirement("GN-9")
@pytest.mark.parametrize(("body", "field"), TYPES.values(), ids=TYPES)
async def test_a_value_of_another_type_is_refused_and_not_converted(wire: Wire, body: Json, field: str) -> None:
    assert_problem(await wire.create(body), 400, "invalid_request", field)


@pytest.mark.requirement("CR-9")
@pytest.mark.parametrize(("body", "field"), BOUNDS.values(), ids=BOUNDS)
async def test_a_value_out_of_bounds_is_refused_by_its_name(wire: Wire, body: Json, field: str) -> None:
    problem = assert_problem(await wire.create(body), 400, "invalid_request", field)
    assert field in problem["detail"]


@pytest.mark.requirement("CR-8")
@pytest.mark.parametrize(("body", "field"), MESSAGES.values(), ids=MESSAGES)
async def test_a_message_that_is_wrong_is_named_by_its_place(wire: Wire, body: Json, field: str) -> None:
    assert_problem(await wire.create(body), 400, "invalid_request", field)


@pytest.mark.requirement("CR-7")
@pytest.mark.parametrize(("body", "code", "field"), PARAMS.values(), ids=PARAMS)
async def test_params_are_an_allow_list(wire: Wire, body: Json, code: str, field: str) -> None:
    problem = assert_problem(await wire.create(body), 400, code, field)
    assert field in problem["detail"]


@pytest.mark.requirement("CR-6")
@pytest.mark.parametrize("provider", ["nobody", "OpenAI", "", "a\x00b"])
async def test_an_unknown_provider_is_answered_with_the_known_ones(wire: Wire, provider: str) -> None:
    problem = assert_problem(await wire.create(but(provider=provider)), 400, "unknown_provider", "provider")
    assert "openai, anthropic, langchain, scripted" in problem["detail"]


@pytest.mark.requirement("CR-5")
@pytest.mark.parametrize("body", [but(messages=[{"role": "user", "content": "x"}]), but(prompt=None)])
async def test_neither_and_both_of_prompt_and_messages_are_refused(wire: Wire, body: Json) -> None:
    problem = assert_problem(await wire.create(body), 400, "invalid_request", "body")
    assert "either prompt or messages" in problem["detail"]


@pytest.mark.requirement("GN-8")
@pytest.mark.parametrize("name", ["stream", "Prompt", "n", "ü", "a\x00b"])
async def test_an_unknown_field_is_named(wire: Wire, name: str) -> None:
    problem = assert_problem(await wire.create(but(**{name: 1})), 400, "invalid_request", name)
    assert "Leave it out" in problem["detail"]


@pytest.mark.requirement("GN-8")
@pytest.mark.parametrize("name", ["provider", "model"])
async def test_a_missing_field_is_named(wire: Wire, name: str) -> None:
    body = {key: value for key, value in BASE.items() if key != name}
    assert_problem(await wire.create(body), 400, "invalid_request", name)


@pytest.mark.requirement("GN-10")
@pytest.mark.parametrize("field", ["prompt", "system"])
async def test_a_nul_is_refused(wire: Wire, field: str) -> None:
    problem = assert_problem(await wire.create(but(**{field: "a\x00b"})), 400, "invalid_request", field)
    assert "NUL" in problem["detail"]


@pytest.mark.requirement("GN-10")
@pytest.mark.parametrize("text", ["\ud800", "a\udc00", "\udf0a\ud83c"])
@pytest.mark.parametrize("field", UNSOUND)
async def test_half_a_surrogate_pair_is_refused(wire: Wire, field: str, text: str) -> None:
    assert_problem(await wire.create(but(**{field: text})), 400, "invalid_request", field)


@pytest.mark.requirement("GN-10")
@pytest.mark.parametrize("text", ["\x00", "\ud800"])
async def test_what_is_no_text_is_refused_at_any_depth_and_in_names(wire: Wire, text: str) -> None:
    bodies = [
        messages({"role": "user", "content": [{"type": "text", "text": text}]}),
        messages({"role": "user", "content": [{"a": [{text: 1}]}]}),
        but(params={"text": text}),
        but(params={text: 1}),
        but(metadata={"a": text}),
        but(metadata={text: "a"}),
    ]
    for body in bodies:
        answer = await wire.create(body)
        assert answer.status_code == 400, body
        assert answer.json()["code"] in {"invalid_request", "unsupported_param"}


@pytest.mark.requirement("GN-6")
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{'a':1}", b'{"a":1,}', b"hello", b'{"a":"\xff"}', b'{"a":1}{', b'{"a":1' + b"0" * 5000 + b"}"],
)
async def test_a_body_that_is_not_json_is_refused(wire: Wire, content: bytes) -> None:
    assert_problem(await wire.ask("POST", "/jobs", content=content), 400, "invalid_json")


@pytest.mark.requirement("GN-9")
@pytest.mark.parametrize("content", [b"[]", b"1", b'"text"', b"null", b"true"])
async def test_a_body_that_is_no_object_is_refused(wire: Wire, content: bytes) -> None:
    assert_problem(await wire.ask("POST", "/jobs", content=content), 400, "invalid_request", "body")


@pytest.mark.requirement("GN-12")
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    "where",
    [
        pytest.param('"prompt":"hi","temperature":%s', id="field"),
        pytest.param('"prompt":"hi","params":{"tokens_per_s":%s}', id="params"),
        pytest.param('"messages":[{"role":"user","content":[{"type":"x","n":%s}]}]', id="part"),
    ],
)
async def test_what_is_not_a_number_is_refused(wire: Wire, where: str, number: str) -> None:
    content = f'{{"provider":"scripted","model":"demo",{where % number}}}'
    answer = await wire.ask("POST", "/jobs", content=content.encode())
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] in {"invalid_json", "invalid_request"}


DEEP = {
    "content": '"messages":[{"role":"user","content":[{"a":%s}]}]',
    "tool calls": '"messages":[{"role":"assistant","tool_calls":[{"a":%s}]}]',
    "params": '"prompt":"hi","params":{"tools":[{"a":%s}]}',
}


async def nested(wire: Wire, where: str, depth: int) -> Any:
    """The answer to a body with so many lists in each other."""
    field = DEEP[where] % ("[" * depth + "]" * depth)
    return await wire.ask("POST", "/jobs", content=f'{{"provider":"openai","model":"m",{field}}}'.encode())


@pytest.mark.requirement("GN-11")
@pytest.mark.parametrize("depth", [33, 300, 945, 5_000, 100_000])
@pytest.mark.parametrize("where", DEEP)
async def test_a_body_nested_too_deeply_is_refused(wire: Wire, where: str, depth: int) -> None:
    answer = await nested(wire, where, depth)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] in {"invalid_json", "invalid_request"}


@needs_our_node
@pytest.mark.requirement("GN-11")
@pytest.mark.parametrize("where", DEEP)
async def test_a_body_as_deep_as_any_tools_are_is_taken(wire: Wire, where: str) -> None:
    assert (await nested(wire, where, 24)).status_code == 202


@pytest.mark.requirement("GN-5")
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_a_body_of_another_type_is_refused(wire: Wire, kind: str) -> None:
    content = json.dumps(scripted("hello")).encode()
    answer = await wire.ask("POST", "/jobs", content=content, headers={"Content-Type": kind})
    problem = assert_problem(answer, 415, "unsupported_media_type")
    assert "application/json" in problem["detail"]


@pytest.mark.requirement("GN-5")
@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.x+json"])
async def test_json_by_any_of_its_names_is_taken(wire: Wire, kind: str) -> None:
    content = json.dumps(scripted("hello")).encode()
    answer = await wire.ask("POST", "/jobs", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 202


@needs_our_node
@pytest.mark.requirement("GN-7")
@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_of_the_limit_is_taken_and_a_byte_more_is_not(wire: Wire, declared: bool) -> None:
    async def sent(size: int) -> Any:
        start = json.dumps(scripted("hello")).encode()[:-1]
        body = start + b" " * (size - len(start) - 1) + b"}"
        return await wire.ask("POST", "/jobs", content=body if declared else pieces(body))

    assert (await sent(LIMIT)).status_code == 202
    problem = assert_problem(await sent(LIMIT + 1), 413, "payload_too_large")
    assert str(LIMIT) in problem["detail"]


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    """A body without a declared length."""
    for at in range(0, len(body), 64_000):
        yield body[at : at + 64_000]


@pytest.mark.requirement("GN-7")
async def test_a_body_that_only_says_it_is_large_is_refused_before_it_comes(wire: Wire) -> None:
    head = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    answer = await wire.raw(head + b"Content-Length: 9999999999\r\n\r\n{")
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert b'"code":"payload_too_large"' in answer


@pytest.mark.requirement("ID-5")
@pytest.mark.parametrize("key", [b"", b"a b", "schlüssel".encode(), b"x" * 256, b"a\tb"])
async def test_an_idempotency_key_that_is_no_key_is_refused(wire: Wire, key: bytes) -> None:
    answer = await wire.ask("POST", "/jobs", BASE, headers={"Idempotency-Key": key})
    assert_problem(answer, 400, "invalid_request", "Idempotency-Key")
