"""Events as SSE bytes: the frame, the heartbeat, the reconnection hint. Pure.

A comment and a `retry:` line end with one newline, not with a blank line: next to `id:` lines a blank line makes some
well-known clients dispatch an empty event, and crash on it (wire notes, R1). `data:` is always one line of JSON.
"""

from itertools import groupby

import msgspec

from shared.errors import CODES
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


def token_expired() -> bytes:
    """The end of a stream whose reader's leave has ended: not an event of the log, so it has no id."""
    code = CODES["token_expired"]
    return frame(None, "token_expired", _json({"code": code.code, "message": f"{code.title}. {code.advice}"}))


def too_many_readers(retry_ms: int) -> bytes:
    """The end of a stream whose reader has to go for newer ones of its key. Told to wait, for it would come back at
    once and send another away."""
    code = CODES["too_many_readers"]
    body = _json({"code": code.code, "message": f"{code.title}. {code.advice}"})
    return retry(retry_ms) + frame(None, code.code, body)


def frame(event_id: EventId | None, name: str | None, body: bytes) -> bytes:
    """One frame. `body` is JSON on one line; a name is one of ours, so nothing can be injected."""
    head = b"" if event_id is None else b"id: %d-%d\n" % (event_id.epoch, event_id.seq)
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
    for (kind, _), group in groupby(entries, key=lambda entry: (type(entry.event), entry.id.epoch)):
        members = list(group)
        if kind is Texts:  # each a frame: many clients read lines of 64 KB at most
            frames += [native(_whole(entry.event), entry.id, size(entry)) for entry in members]
        elif kind in _TEXTS and len(members) > 1:
            frames.append(native(_joined(members), members[-1].id, len(members)))
        else:
            frames += [native(entry.event, entry.id) for entry in members]
    return b"".join(frames)


def _whole(event: Event) -> Event:
    if not isinstance(event, Texts):
        return event
    return Reasoning(event.text, event.at_ms) if event.reasoning else Token(event.text, event.at_ms)


def _joined(entries: list[Entry]) -> Token | Reasoning:
    texts = [entry.event for entry in entries if isinstance(entry.event, _TEXTS)]
    at_ms = next((event.at_ms for event in texts if event.at_ms is not None), None)
    return type(texts[0])("".join(event.text for event in texts), at_ms)
