"""A job's call in the shape of OpenAI's Responses API: jobs speak that of its chat completions."""

from collections.abc import Iterator
from typing import Any

from shared.jobs import Message
from worker.providers.base import Call
from worker.providers.pieces import conversation

_AS_THEY_ARE = (
    "parallel_tool_calls",
    "top_p",
    "service_tier",
    "prompt_cache_key",
    "safety_identifier",
)


def body(call: Call) -> dict[str, Any]:
    """What begins a generation in the background, streamed. Names that are not in the call stay absent."""
    params = {name: value for name, value in call.params.items() if value is not None}
    wanted: dict[str, Any] = {
        "model": call.model,
        "input": [item for message in conversation(call) for item in _items(message)],
        "background": True,
        "stream": True,
        "store": True,  # what is not stored cannot be read again
        "instructions": call.system,
        "temperature": call.temperature,
        "max_output_tokens": call.max_tokens or params.get("max_completion_tokens"),
        "text": _text(params),
        "reasoning": {"effort": params["reasoning_effort"]} if "reasoning_effort" in params else None,
        "tools": [_tool(tool) for tool in params["tools"]] if "tools" in params else None,
        "tool_choice": _choice(params.get("tool_choice")),
        **{name: params.get(name) for name in _AS_THEY_ARE},
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _text(params: dict[str, Any]) -> dict[str, Any] | None:
    text = {}
    if "response_format" in params:
        text["format"] = _flat(params["response_format"])
    if "verbosity" in params:
        text["verbosity"] = params["verbosity"]
    return text or None


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    flat = _flat(tool)
    if isinstance(flat.get("format"), dict):  # a custom tool's grammar
        flat["format"] = _flat(flat["format"])
    # Strict unless said otherwise here, the other way round in chat completions.
    return {"strict": False, **flat} if flat.get("type") == "function" else flat


def _choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    flat = _flat(choice)
    if isinstance(flat.get("tools"), list):
        flat["tools"] = [_flat(tool) for tool in flat["tools"] if isinstance(tool, dict)]
    return flat


def _flat(value: dict[str, Any]) -> dict[str, Any]:
    """Chat completions put a thing's fields under the name of its type, Responses beside the type."""
    kind = value.get("type")
    inner = value.get(kind) if isinstance(kind, str) else None
    return {"type": kind, **inner} if isinstance(inner, dict) else dict(value)


def _items(message: Message) -> Iterator[dict[str, Any]]:
    """One message as input items: calls and results of tools are items of their own."""
    if message.role == "tool":
        output = _content(message.content, "input") or ""
        yield {"type": "function_call_output", "call_id": message.tool_call_id or "", "output": output}
        return
    if message.content:
        side = "output" if message.role == "assistant" else "input"
        yield {"role": message.role, "content": _content(message.content, side)}
    for call in message.tool_calls or ():
        yield _tool_call(call)


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    flat = _flat(call)
    kind, said = ("custom_tool_call", "input") if flat.get("type") == "custom" else ("function_call", "arguments")
    return {"type": kind, "call_id": call.get("id", ""), "name": flat.get("name", ""), said: flat.get(said, "")}


def _content(content: str | list[dict[str, Any]] | None, side: str) -> str | list[dict[str, Any]] | None:
    return [_part(part, side) for part in content] if isinstance(content, list) else content


def _part(part: dict[str, Any], side: str) -> dict[str, Any]:
    match part.get("type"):
        case "text":
            return {"type": f"{side}_text", "text": part.get("text", "")}
        case "image_url":
            image = part["image_url"] if isinstance(part.get("image_url"), dict) else {"url": part.get("image_url")}
            return {"type": "input_image", "image_url": image.get("url"), "detail": image.get("detail", "auto")}
        case "file" if isinstance(part.get("file"), dict):
            return {"type": "input_file", **part["file"]}
        case _:
            return part
