"""Events as SSE bytes: the frame, the heartbeat, the reconnection hint. Pure.

A comment and a `retry:` line end with one newline, not with a blank line: next to `id:` lines a blank line makes some
well-known clients dispatch an empty event, and crash on it (wire notes, R1). `data:` is always one line of JSON.
"""

from itertools import groupby

import msgspec

from shared.events import Entry, Event, EventId, Reasoning, Texts, Token, apart, data, size

HEARTBEAT = b": ka\n"
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}

_TEXTS = (Token, Reasoning)
_json = msgspec.json.Encoder().encode


def chunk(body: bytes) -> bytes:
    """A piece of a response in chunked encoding; nothing for nothing, which would end the response."""
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""


def hello(retry_ms: int) -> bytes:
    """The first bytes of a stream: proxies and readers see at once that it lives."""
    return b": tailrace\nretry: %d\n" % retry_ms


def retry(ms: int) -> bytes:
    """Ask EventSource to come back after `ms`."""
    return b"retry: %d\n" % ms


def frame(event_id: EventId | None, name: str | None, body: bytes) -> bytes:
    """One frame. `body` is JSON on one line; a name is one of ours, so nothing can be injected."""
    head = b"" if event_id is None else b"id: %d-%d\n" % event_id
    if name is not None:
        head += b"event: %s\n" % name.encode()
    return head + b"data: " + body + b"\n\n"


def native(event: Event, event_id: EventId | None, joined: int = 1) -> bytes:
    """An event of the native dialect; `joined`: how many events of the log this one stands for."""
    if joined == 1 and type(event) is Token:
        return frame(event_id, "token", _json(event))
    body = data(event)
    if joined > 1:
        body["n"] = joined
    return frame(event_id, event.type, _json(body))


def native_run(entries: list[Entry], *, exact: bool) -> bytes:
    """Adjacent entries; unless `exact`, neighbours of one text type and one epoch become one frame."""
    if exact:
        entries = apart(entries)
    if exact or (len(entries) == 1 and size(entries[0]) == 1):
        return b"".join(native(entry.event, entry.id) for entry in entries)
    frames = []
    for (kind, _), group in groupby(entries, key=lambda entry: (_kind(entry.event), entry.id.epoch)):
        members = list(group)
        if kind in _TEXTS:
            frames.append(native(_joined(kind, members), members[-1].id, sum(map(size, members))))
        else:
            frames += [native(entry.event, entry.id) for entry in members]
    return b"".join(frames)


def _kind(event: Event) -> type[Event]:
    if isinstance(event, Texts):
        return Reasoning if event.reasoning else Token
    return type(event)


def _joined(kind: type[Event], entries: list[Entry]) -> Token | Reasoning:
    texts: list[str] = []
    at_ms: int | None = None
    for _, event in entries:
        if isinstance(event, Texts):
            texts += event.texts
        elif isinstance(event, _TEXTS):
            texts.append(event.text)
        at_ms = at_ms if at_ms is not None else getattr(event, "at_ms", None)
    text = "".join(texts)
    return Token(text, at_ms) if kind is Token else Reasoning(text, at_ms)
