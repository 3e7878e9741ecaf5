"""From messages in OpenAI's chat shape, as jobs hold them, to Anthropic's: a system text, and turns of blocks."""

import json
from collections.abc import Iterator
from typing import Any

from shared.errors import ProviderError
from shared.jobs import Message

_Block = dict[str, Any]

SAMPLING = frozenset({"temperature", "top_p", "top_k"})
"""What API version 2026-10-21, which SDK 2 speaks, refuses even at its default."""
SAMPLING_HEADERS = {"anthropic-version": "2023-06-01"}
"""Calls that ask for one of SAMPLING are made under the version before, where models up to 4.6 still take it.

Source: https://platform.claude.com/docs/en/api/versioning.
"""


def convert(messages: list[Message], system: str | None) -> tuple[str, list[_Block]]:
    """`(system, messages)` for Anthropic. ProviderError(provider_rejected) names what it has no form for.

    System messages wherever they stand go into the system text. Neighbours of one role become one turn: all results
    of parallel tool calls have to be in the turn that follows the calls.
    """
    texts = [system] if system else []
    turns: list[_Block] = []
    for position, message in enumerate(messages):
        where = f"messages.{position}"
        if message.role in {"system", "developer"}:
            texts.extend(block["text"] for block in _content(message.content, where) if "text" in block)
            continue
        role, blocks = _turn(message, where)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"].extend(blocks)
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return "\n\n".join(texts), turns


def _turn(message: Message, where: str) -> tuple[str, list[_Block]]:
    match message.role:
        case "user":
            return "user", list(_content(message.content, where))
        case "assistant":
            calls = [_tool_use(call, f"{where}.tool_calls") for call in message.tool_calls or ()]
            return "assistant", [*_content(message.content, where), *calls]
        case "tool":
            result = {"type": "tool_result", "tool_use_id": message.tool_call_id or ""}
            return "user", [result | {"content": list(_content(message.content, where))}]
        case role:
            raise _refusal(f"{where}.role", f"Anthropic knows no role {role!r}")


def _content(content: str | list[_Block] | None, where: str) -> Iterator[_Block]:
    """The blocks of a message. Empty texts are left out: Anthropic refuses them."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    for part in parts:
        match part:
            case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
                if text:
                    yield (
                        {**part, "type": "text", "text": text}
                        if part["type"] == "text"
                        else {"type": "text", "text": text}
                    )
            case {"type": "image_url", "image_url": {"url": str(url)}}:
                yield {"type": "image", "source": _image(url)}
            case {"type": str()}:
                # Anthropic's own blocks (documents, images, results) go through as they are.
                yield part
            case _:
                raise _refusal(f"{where}.content", "a content part needs a `type`")


def _image(url: str) -> _Block:
    head, comma, data = url.partition(",")
    if not url.startswith("data:") or not comma:
        return {"type": "url", "url": url}
    media_type = head.removeprefix("data:").removesuffix(";base64")
    return {"type": "base64", "media_type": media_type, "data": data}


def _tool_use(call: _Block, where: str) -> _Block:
    function = call.get("function")
    if not isinstance(function, dict):
        raise _refusal(where, "a tool call needs a `function`")
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (TypeError, ValueError):
        arguments = None
    if not isinstance(arguments, dict):
        raise _refusal(where, "`function.arguments` has to be the text of a JSON object")
    return {"type": "tool_use", "id": call.get("id", ""), "name": function.get("name", ""), "input": arguments}


def _refusal(where: str, reason: str) -> ProviderError:
    return ProviderError("provider_rejected", f"`{where}`: {reason}.")
