"""The tutorial's dialects: data-only frames of a chat endpoint, to the letter, with our `id:` lines beside them.

They cannot take text back. A `reset` that would drop text already sent ends the response with the error frame
(`interrupted`); a new GET then shows only what survives (DESIGN §3).
"""

import json
from typing import Any

from api import sse
from shared.errors import CODES
from shared.events import Cancelled, Done, Entry, Event, EventId, Failed, Reset, Start, Token, apart

_INTERRUPTED = f"{CODES['interrupted'].title}. {CODES['interrupted'].advice}"


class Chat:
    """`/chat/stream` and `/anthropic/stream`: {"token", "done"}."""

    shared: str | None = None
    joins = False
    retracts = False
    reconnects = False

    def __init__(self) -> None:
        self.finished = False
        self._sent_points = 0
        self._model = ""
        self._started = False

    def about(self, model: str) -> None:
        """The model, for a stream that begins with a snapshot instead of the log's own start."""
        self._model = model

    def resume(self, sent_points: int, *, started: bool) -> None:
        """What the reader has from an earlier response counts as sent."""
        self._sent_points = sent_points
        self._started = started

    def write(self, entries: list[Entry]) -> bytes:
        """The frames of what this dialect can show; other events have none."""
        frames = []
        for entry in apart(entries):
            bodies = [body for body in self._bodies(entry.event) if body is not None]
            # Of two frames for one event the last has the id: a cut between them must not cost the second.
            frames += [self._frame(None, body) for body in bodies[:-1]]
            frames += [self._frame(entry.id, body) for body in bodies[-1:]]
            if self.finished:
                break
        return b"".join(frames)

    def lost(self, event: Failed) -> bytes:
        """The error frame, without an id."""
        self.finished = True
        return self._frame(None, self.error(event.message))

    def _frame(self, event_id: EventId | None, body: dict[str, Any]) -> bytes:
        return sse.frame(event_id, None, json.dumps(body, ensure_ascii=False).encode())

    def _bodies(self, event: Event) -> list[dict[str, Any] | None]:
        match event:
            case Token(text=text):
                return [self._token(text)]
            case Start():
                return [self._begin()]
            case Reset():
                return [self._begin() if event.snapshot else None, self._reset(event)]
            case Done():
                self.finished = True
                return [self.done(event)]
            case Failed(message=message):
                self.finished = True
                return [self.error(message)]
            case Cancelled():
                self.finished = True
                return [self.error("The job was cancelled.")]
            case _:
                return []

    def _begin(self) -> dict[str, Any] | None:
        """The start frame, once; later attempts go on in the same answer."""
        if self._started:
            return None
        self._started = True
        return self.start(self._model)

    def _token(self, text: str) -> dict[str, Any]:
        self._sent_points += len(text)
        return self.token(text)

    def _reset(self, event: Reset) -> dict[str, Any] | None:
        if event.keep < self._sent_points:
            self.finished = True
            return self.error(_INTERRUPTED)
        return self._token(event.text) if event.text else None

    def start(self, model: str) -> dict[str, Any] | None:
        """The frame of the first attempt's start."""
        return None

    def token(self, text: str) -> dict[str, Any]:
        """The frame of a piece of the answer."""
        return {"token": text, "done": False}

    def done(self, event: Done) -> dict[str, Any]:
        """The frame of the whole answer's end."""
        return {"token": "", "done": True}

    def error(self, message: str) -> dict[str, Any]:
        """The frame of any other end."""
        return {"error": message, "done": True}


class ChatMeta(Chat):
    """`/chat/stream-meta`: {"event": start | token | done | error}."""

    def start(self, model: str) -> dict[str, Any] | None:
        """Which model answers."""
        return {"event": "start", "model": model}

    def token(self, text: str) -> dict[str, Any]:
        """A piece of the answer."""
        return {"event": "token", "token": text}

    def done(self, event: Done) -> dict[str, Any]:
        """How many pieces, and how long it took from the POST, in ms."""
        return {"event": "done", "tokens": event.tokens, "latency_ms": round(event.timings.get("latency_ms", 0))}

    def error(self, message: str) -> dict[str, Any]:
        """What went wrong, in our words."""
        return {"event": "error", "message": message}


class LangChain(Chat):
    """`/langchain/stream`: {"token"}, at the end {"done": true}."""

    def token(self, text: str) -> dict[str, Any]:
        """A piece of the answer."""
        return {"token": text}

    def done(self, event: Done) -> dict[str, Any]:
        """The end."""
        return {"done": True}
