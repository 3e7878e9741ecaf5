"""The wire formats of OpenAI's chat completions and of Anthropic's messages, as bytes of server-sent events."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.provider_behaviour import Behaviour, answer, cut, turns

SECRET = "sk-provider-secret and the prompt"
"""Stands in every error message that the server makes: none of it may ever reach a client."""

INPUT_TOKENS = 7
_ANTHROPIC_FINISH = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_ERROR_TYPES = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("invalid_request_error", "authentication_error"),
    402: ("invalid_request_error", "billing_error"),
    403: ("insufficient_permissions", "permission_error"),
    404: ("invalid_request_error", "not_found_error"),
    409: ("conflict", "conflict_error"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("requests", "rate_limit_error"),
    500: ("server_error", "api_error"),
    504: ("server_error", "timeout_error"),
    529: ("server_error", "overloaded_error"),
}
_OPENAI_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


@dataclass
class Frames:
    """The frames of one response: those before the content, one per content piece, and those that end it."""

    head: list[bytes] = field(default_factory=list)
    content: list[bytes] = field(default_factory=list)
    tail: list[bytes] = field(default_factory=list)


def text_pieces(body: dict[str, Any], how: Behaviour) -> list[str]:
    """The pieces of text that answer a request."""
    if how.fault == "empty":
        return []
    if how.pieces is not None:
        return list(how.pieces)
    if how.tools:
        return []
    return cut(answer(body["model"], turns(body), how.tokens), how.cut)


def openai(body: dict[str, Any], how: Behaviour) -> Frames:
    """A chat completion."""

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choices = [] if "usage" in more else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        return _data({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"],
                      "choices": choices, **more})  # fmt: skip

    pieces = text_pieces(body, how)
    frames = Frames(head=[chunk({"role": "assistant", "content": ""})])
    frames.content += [chunk({"reasoning_content": text}) for text in how.reasoning]
    frames.content += [chunk({"content": text}) for text in pieces]
    for index, tool in enumerate(how.tools):
        call = {"index": index, "id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": ""}}
        frames.content.append(chunk({"tool_calls": [call]}))
        for text in tool.arguments:
            frames.content.append(chunk({"tool_calls": [{"index": index, "function": {"arguments": text}}]}))
    frames.tail.append(chunk({}, how.finish or ("tool_calls" if how.tools else "stop")))
    if how.usage and (body.get("stream_options") or {}).get("include_usage"):
        count = len(frames.content)
        usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": count, "total_tokens": INPUT_TOKENS + count,
                 "prompt_tokens_details": {"cached_tokens": 3},
                 "completion_tokens_details": {"reasoning_tokens": len(how.reasoning)}}  # fmt: skip
        frames.tail.append(chunk({}, usage=usage))
    frames.tail.append(b"data: [DONE]\n\n")
    return frames


def anthropic(body: dict[str, Any], how: Behaviour) -> Frames:
    """A message."""
    frames = Frames()
    usage = {"input_tokens": INPUT_TOKENS - 3, "cache_read_input_tokens": 3, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": [],
               "stop_reason": None, "stop_sequence": None, "usage": usage}  # fmt: skip
    frames.head = [_event("message_start", message=message), _event("ping")]
    blocks = list(_blocks(text_pieces(body, how), how))
    for index, (block, deltas) in enumerate(blocks):
        start = _event("content_block_start", index=index, content_block=block)
        parts = [_event("content_block_delta", index=index, delta=delta) for delta in deltas] or [b""]
        parts[0] = start + parts[0]
        parts[-1] += _event("content_block_stop", index=index)
        frames.content += parts
    finish = _ANTHROPIC_FINISH[how.finish or ("tool_calls" if how.tools else "stop")]
    counts = {**usage, "output_tokens": len(frames.content)} if how.usage else {"output_tokens": 0}
    frames.tail = [
        _event("message_delta", delta={"stop_reason": finish, "stop_sequence": None}, usage=counts),
        _event("message_stop"),
    ]
    return frames


def _blocks(pieces: list[str], how: Behaviour) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    if how.reasoning:
        deltas = [{"type": "thinking_delta", "thinking": text} for text in how.reasoning]
        yield (
            {"type": "thinking", "thinking": "", "signature": ""},
            [*deltas, {"type": "signature_delta", "signature": "s"}],
        )
    if pieces:
        yield {"type": "text", "text": ""}, [{"type": "text_delta", "text": text} for text in pieces]
    for tool in how.tools:
        block = {"type": "tool_use", "id": tool.id, "name": tool.name, "input": {}}
        yield block, [{"type": "input_json_delta", "partial_json": text} for text in ("", *tool.arguments)]


def error_body(vendor: str, how: Behaviour) -> bytes:
    """The body of an HTTP error."""
    ours, theirs = _ERROR_TYPES.get(how.status, _ERROR_TYPES[400 if how.status < 500 else 500])
    if vendor == "anthropic":
        error: dict[str, Any] = {"type": "billing_error" if how.fault == "quota" else theirs, "message": SECRET}
        return json.dumps({"type": "error", "error": how.error or error, "request_id": "req_1"}).encode()
    code = "insufficient_quota" if how.fault == "quota" else _OPENAI_CODES.get(how.status)
    kind = "insufficient_quota" if how.fault == "quota" else ours
    return json.dumps({"error": how.error or {"message": SECRET, "type": kind, "param": None, "code": code}}).encode()


def error_frame(vendor: str, how: Behaviour) -> bytes:
    """An error in the middle of a stream; by default the vendor is overloaded."""
    if vendor == "anthropic":
        return _event("error", error=how.error or {"type": "overloaded_error", "message": SECRET})
    return _data({"error": how.error or {"message": SECRET, "type": "server_error", "code": None}})


def garbage_frame(vendor: str) -> bytes:
    """A frame that is no JSON."""
    head = b"event: content_block_delta\n" if vendor == "anthropic" else b""
    return head + f'data: {{"{SECRET}": [{{"del\n\n'.encode()


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def _event(name: str, **fields: Any) -> bytes:
    return f"event: {name}\n".encode() + _data({"type": name, **fields})


def _json(value: Any) -> bytes:
    """Plain UTF-8, but escapes where the text holds half a surrogate pair."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()
