"""What a reader has in hand after a run of events: the one fold that server, client checks and snapshots agree on."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from shared.events import Event, Reasoning, Reset, Start, Token, ToolCall


@dataclass(slots=True)
class Transcript:
    """Text, reasoning and tool calls as `reset` leaves them. `tokens` counts the last attempt's `token` events."""

    _text: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)
    _tools: dict[int, dict[str, Any]] = field(default_factory=dict)
    attempt: int = 0
    tokens: int = 0
    has_content: bool = False

    @property
    def text(self) -> str:
        """The text shown."""
        if len(self._text) > 1:
            self._text = ["".join(self._text)]
        return self._text[0] if self._text else ""

    @property
    def reasoning(self) -> str:
        """The reasoning shown."""
        return "".join(self._reasoning)

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The tool calls in index order: {index, id, name, arguments}."""
        calls = (self._tools[index] for index in sorted(self._tools))
        return [{**call, "arguments": "".join(call["arguments"])} for call in calls]

    def apply(self, event: Event) -> None:
        """Take one event in."""
        match event:
            case Token(text=text):
                self._text.append(text)
                self.tokens += 1
                self.has_content = True
            case Reasoning(text=text):
                self._reasoning.append(text)
                self.has_content = True
            case ToolCall():
                self._apply_tool_call(event)
                self.has_content = True
            case Reset():
                self._apply_reset(event)
            case Start(attempt=attempt):
                self.attempt = attempt
                self.tokens = 0
            case _:
                pass

    def _apply_tool_call(self, event: ToolCall) -> None:
        call = self._tools.setdefault(event.index, {"index": event.index, "id": "", "name": "", "arguments": []})
        call["id"] = call["id"] or event.id
        call["name"] = call["name"] or event.name
        call["arguments"].append(event.arguments)

    def _apply_reset(self, event: Reset) -> None:
        self._text = [self.text[: event.keep] + (event.text or "")]
        self._reasoning = [event.reasoning] if event.reasoning else []
        # Pieces, joined when asked for: text that grows by `+=` would cost the square of its length.
        self._tools = {call["index"]: {**call, "arguments": [call["arguments"]]} for call in event.tool_calls or []}
        self.attempt = event.attempt


def fold(events: Iterable[Event]) -> Transcript:
    """The transcript after all of `events`."""
    transcript = Transcript()
    for event in events:
        transcript.apply(event)
    return transcript
