"""From what LangChain yields to pieces: the chunks of one chat model, or the events of a chain or graph.

Nothing of LangChain is imported: messages, chunks and events are read by their public attributes.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from shared.errors import ProviderError
from worker.providers.base import Finish, FinishReason, Piece, Usage
from worker.providers.pieces import Pieces, count_tokens

_END_MARKS = ("finish_reason", "stop_reason", "done_reason", "stopReason")
_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "safety": "content_filter",
}
# Whose streams are known to end with a mark: its absence in the middle of a chain means a broken connection there.
_MARKING = {"openai", "anthropic"}
# LangGraph's tag for model calls whose tokens are not for the reader; the second one is its older name.
_HIDDEN = {"nostream", "langsmith:nostream"}


class _Messages:
    """Reads messages and their chunks, of one model run or of several."""

    def __init__(self) -> None:
        self._pieces = Pieces()
        self._counts: Counter[str] = Counter()

    def content(self, run: object, message: Any) -> Iterator[Piece]:
        """Text, reasoning and tool calls of a chunk, or of a whole message from a model that does not stream."""
        if isinstance(message.content, str):
            yield from self._pieces.reasoning(message.additional_kwargs.get("reasoning_content"))
            yield from self._pieces.token(message.content)
        else:
            for block in message.content_blocks:
                if block["type"] == "text":
                    yield from self._pieces.token(block.get("text"))
                elif block["type"] == "reasoning":
                    yield from self._pieces.reasoning(block.get("reasoning"))
        for position, call in enumerate(_tool_calls(message)):
            key = (run, position if call["index"] is None else call["index"])
            yield from self._pieces.tool_call(key, call["id"], call["name"], call["args"])

    def token(self, text: str) -> Iterator[Piece]:
        """Text that comes from no message."""
        yield from self._pieces.token(text)

    def count(self, usage: Mapping[str, Any] | None) -> None:
        """Add one usage: chunks of a run, and runs of a chain, sum up."""
        if not usage:
            return
        inputs, outputs = usage.get("input_token_details") or {}, usage.get("output_token_details") or {}
        self._counts["input"] += usage.get("input_tokens") or 0
        self._counts["output"] += usage.get("output_tokens") or 0
        self._counts["cache_read"] += inputs.get("cache_read") or 0
        self._counts["cache_write"] += inputs.get("cache_creation") or 0
        self._counts["reasoning"] += outputs.get("reasoning") or 0

    def usage(self) -> Iterator[Usage]:
        """The sum so far, if there is any."""
        if counts := self._counts:
            yield count_tokens(
                counts["input"],
                counts["output"],
                cache_read=counts["cache_read"],
                cache_write=counts["cache_write"],
                reasoning=counts["reasoning"],
            )

    def rest(self) -> Iterator[Piece]:
        """What is left at the end."""
        yield from self._pieces.rest()


class ModelAnswer:
    """One answer of a chat model, chunk by chunk (`model.astream`)."""

    def __init__(self) -> None:
        self._messages = _Messages()
        self._reason: FinishReason | None = None
        self.started = False

    def feed(self, chunk: Any) -> Iterator[Piece]:
        """The pieces in one chunk."""
        self.started = True
        self._messages.count(chunk.usage_metadata)
        self._reason = _reason(chunk) or self._reason
        yield from self._messages.content(None, chunk)

    def finish(self) -> Iterator[Piece]:
        """The pieces at the end. ProviderError(provider_interrupted) if no end mark was seen."""
        if self._reason is None:
            raise ProviderError("provider_interrupted", detail="the stream ended without a finish or stop reason")
        yield from self._messages.rest()
        yield from self._messages.usage()
        yield Finish(self._reason)


class ChainAnswer:
    """One answer of a chain or graph, event by event (`astream_events`, version 2).

    Shown are the tokens of its chat models, in order, but for those tagged `nostream`. A chain that calls no chat
    model shows the text it streams itself; one that streams nothing shows its final text.
    """

    def __init__(self) -> None:
        self._messages = _Messages()
        self._reason: FinishReason = "stop"
        self._streamed: set[object] = set()
        self._has_model = False
        self._shown = False
        self._ended = False
        self.started = False

    def feed(self, event: Any) -> Iterator[Piece]:
        """The pieces in one event. ProviderError(provider_interrupted) for a model run that broke off."""
        data, run, is_root = event["data"], event["run_id"], not event["parent_ids"]
        match event["event"]:
            case "on_chat_model_start":
                self._has_model = True
            case "on_chat_model_stream":
                self.started = True
                self._streamed.add(run)
                yield from self._show(event, run, data["chunk"])
            case "on_chat_model_end":
                if run not in self._streamed:
                    yield from self._show(event, run, data["output"])
                yield from self._end_run(data["output"])
            case "on_chain_stream" if is_root and not self._has_model and isinstance(data["chunk"], str):
                yield from self._text(data["chunk"])
        if is_root and event["event"].endswith("_end"):
            self._ended = True
            if not self._shown:
                yield from self._text(_final_text(data.get("output")))

    def finish(self) -> Iterator[Piece]:
        """The pieces at the end. ProviderError(provider_interrupted) if the chain did not end."""
        if not self._ended:
            raise ProviderError("provider_interrupted", detail="the chain ended without its last event")
        yield from self._messages.rest()
        yield Finish(self._reason)

    def _show(self, event: Any, run: object, message: Any) -> Iterator[Piece]:
        if not _HIDDEN.isdisjoint(event["tags"]):
            return
        for piece in self._messages.content(run, message):
            self._shown = True
            yield piece

    def _end_run(self, message: Any) -> Iterator[Piece]:
        self._messages.count(getattr(message, "usage_metadata", None))
        yield from self._messages.usage()
        reason = _reason(message)
        if reason is None and message.response_metadata.get("model_provider") in _MARKING:
            raise ProviderError("provider_interrupted", detail="a model's stream ended without its end mark")
        self._reason = reason or "stop"

    def _text(self, text: str) -> Iterator[Piece]:
        for piece in self._messages.token(text):
            self._shown = True
            yield piece


def _reason(message: Any) -> FinishReason | None:
    """The end mark in a message's metadata, in the words of whichever vendor."""
    for name in _END_MARKS:
        if mark := message.response_metadata.get(name):
            return _REASONS.get(str(mark).lower(), "other")
    return None


def _tool_calls(message: Any) -> Iterator[dict[str, Any]]:
    """Tool calls in the form of chunks: `args` is text."""
    chunks = getattr(message, "tool_call_chunks", None)
    if chunks is not None:
        yield from chunks
        return
    for call in getattr(message, "tool_calls", ()):
        yield {"index": None, "id": call["id"], "name": call["name"], "args": json.dumps(call["args"])}


def _final_text(output: Any) -> str:
    """The text that a chain or graph ends with: a string, a message, or the last message of a graph's state."""
    if isinstance(output, Mapping) and output.get("messages"):
        output = output["messages"][-1]
    return output if isinstance(output, str) else str(getattr(output, "text", ""))
