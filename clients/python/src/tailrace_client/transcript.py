"""What a reader has in hand after a run of events: text, reasoning and tool calls, as `reset` leaves them."""

from typing import Any

from tailrace_client.events import Event


class Transcript:
    """The fold of a job's events. It is the whole answer if the events were read from the start (or a snapshot)."""

    def __init__(self) -> None:
        self.attempt = 0
        """The attempt that the last events belong to; 0 before the first."""
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._tools: dict[int, dict[str, Any]] = {}

    @property
    def text(self) -> str:
        """The text shown. Python counts in code points, as `keep` does."""
        self._text = ["".join(self._text)]
        return self._text[0]

    @property
    def reasoning(self) -> str:
        """The reasoning shown."""
        self._reasoning = ["".join(self._reasoning)]
        return self._reasoning[0]

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The tool calls in index order: `{index, id, name, arguments}`."""
        return [dict(self._tools[index]) for index in sorted(self._tools)]

    def apply(self, event: Event) -> None:
        """Take one event in. An event of a type that is not known here changes nothing."""
        match event.type:
            case "token":
                self._text.append(event.text)
            case "reasoning":
                self._reasoning.append(event.text)
            case "tool_call":
                self._add_to_tool_call(event.data)
            case "reset":
                self._reset(event)
            case "start":
                self.attempt = int(event.data.get("attempt", self.attempt))
            case _:
                pass

    def _add_to_tool_call(self, piece: dict[str, Any]) -> None:
        index = int(piece.get("index", 0))
        call = self._tools.setdefault(index, {"index": index, "id": "", "name": "", "arguments": ""})
        call["id"] = call["id"] or piece.get("id") or ""
        call["name"] = call["name"] or piece.get("name") or ""
        call["arguments"] += piece.get("arguments") or ""

    def _reset(self, event: Event) -> None:
        keep = max(0, int(event.data.get("keep", 0)))
        self._text = [self.text[:keep], event.text]
        self._reasoning = [str(event.data.get("reasoning") or "")]
        self._tools = {int(call["index"]): dict(call) for call in event.data.get("tool_calls") or []}
        self.attempt = int(event.data.get("attempt", self.attempt))
