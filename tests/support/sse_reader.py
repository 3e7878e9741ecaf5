"""Server-sent events read by the letter of WHATWG HTML § 9.2, for tests: it shares no line with server or client.

Besides the frames it keeps what a polite parser throws away: comments, `retry:` lines, blank lines that end nothing.
"""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Frame:
    """What one blank line dispatched. `id` is the frame's own, None where it had no `id:` line."""

    id: str | None
    event: str
    data: str
    fields: tuple[str, ...]
    """The names of its lines, in order."""

    @property
    def body(self) -> dict[str, Any]:
        """The data as a JSON object."""
        body = json.loads(self.data)
        assert isinstance(body, dict), self.data
        return body

    @property
    def epoch(self) -> int:
        """The first half of the id."""
        return self._half(0)

    @property
    def seq(self) -> int:
        """The second half of the id."""
        return self._half(1)

    @property
    def n(self) -> int:
        """How many events it stands for."""
        count: int = self.body.get("n", 1)
        return count

    def _half(self, place: int) -> int:
        assert self.id is not None, f"a frame without an id: {self}"
        return int(self.id.split("-")[place])


@dataclass
class SseReader:
    """Bytes in, frames out; a line may come in any number of pieces."""

    frames: list[Frame] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    retries: list[int] = field(default_factory=list)
    idle_blanks: int = 0
    """Blank lines with no data before them: next to `id:` lines some clients dispatch an empty event on each."""
    _rest: bytes = b""
    _lines: list[tuple[str, str]] = field(default_factory=list)

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that this chunk completes."""
        known = len(self.frames)
        self._rest += chunk
        while (line := self._next_line()) is not None:
            self._take(line.decode("utf-8"))
        return self.frames[known:]

    @property
    def unfinished(self) -> bool:
        """Whether data came that no blank line has ended."""
        return bool(self._rest) or any(name == "data" for name, _ in self._lines)

    def _next_line(self) -> bytes | None:
        ends = [at for at in (self._rest.find(b"\n"), self._rest.find(b"\r")) if at >= 0]
        if not ends:
            return None
        end = min(ends)
        width = 1
        if self._rest[end : end + 1] == b"\r":
            if end + 1 == len(self._rest):
                return None  # its LF may still be on the way
            width = 2 if self._rest[end + 1 : end + 2] == b"\n" else 1
        line, self._rest = self._rest[:end], self._rest[end + width :]
        return line

    def _take(self, line: str) -> None:
        if not line:
            self._dispatch()
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            self.comments.append(value)
        elif name == "retry":
            assert value.isascii(), line
            assert value.isdigit(), line
            self.retries.append(int(value))
        else:
            self._lines.append((name, value))

    def _dispatch(self) -> None:
        lines, self._lines = self._lines, []
        data = [value for name, value in lines if name == "data"]
        if not data:
            self.idle_blanks += 1
            return
        ids = [value for name, value in lines if name == "id"]
        events = [value for name, value in lines if name == "event"]
        self.frames.append(
            Frame(
                ids[-1] if ids else None,
                events[-1] if events else "message",
                "\n".join(data),
                tuple(name for name, _ in lines),
            )
        )


@dataclass
class Shown:
    """What a person sees who applies every frame as PROTOCOL.md §7 says."""

    text: str = ""
    reasoning: str = ""
    tool_calls: dict[int, dict[str, Any]] = field(default_factory=dict)


def shown(frames: list[Frame]) -> Shown:
    """The end of a native stream, from its first frame on."""
    view = Shown()
    for frame in frames:
        body = frame.body
        match frame.event:
            case "token":
                view.text += body["text"]
            case "reasoning":
                view.reasoning += body["text"]
            case "tool_call":
                call = view.tool_calls.setdefault(body["index"], {"id": "", "name": "", "arguments": ""})
                call["id"] += body["id"]
                call["name"] += body["name"]
                call["arguments"] += body["arguments"]
            case "reset":
                view.text = view.text[: body["keep"]] + body.get("text", "")
                view.reasoning = body.get("reasoning", "")
                view.tool_calls = {call["index"]: call for call in body.get("tool_calls", [])}
    return view
