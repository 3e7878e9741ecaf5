"""What is fuzzed: each target takes one random input and raises where a promise is broken, whatever the input was."""

# ruff: noqa: PT017 - a refusal is one of two right answers, not what a test expects

import json
import time
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request

from api import tokens
from api.dialects import DIALECTS
from api.guard import _request_id as request_id_of
from api.intake import check_key
from api.problems import from_body
from api.routes.common import start_of
from api.schemas import JobIn
from shared.errors import ProviderError, TailraceError
from shared.events import (
    Cancelled,
    Done,
    Entry,
    Event,
    EventId,
    Failed,
    Queued,
    Reasoning,
    Reset,
    Start,
    Token,
    ToolCall,
    apart,
    data,
    decode,
    encode,
)
from shared.jobs import JobKey, is_job_id, new_job_id
from shared.principals import Right, key_id_of, new_signing_key
from shared.settings import Settings
from shared.storage.merged import expand, merge, together
from shared.storage.sealed import PLAIN
from tests.fuzz import chance as give
from tests.fuzz.frames import frames
from worker.providers import failures, wire
from worker.providers.anthropic import _Answer as AnthropicAnswer
from worker.providers.base import Finish, Usage
from worker.providers.openai import _Answer as OpenAIAnswer
from worker.providers.openai_responses import _Answer as ResponsesAnswer

_MOST = 2**64 - 1
_SETTINGS = Settings()
_KEY = new_signing_key(0)
_JOB = JobKey("acme", new_job_id())
_TOKEN = tokens.mint(_KEY, _JOB, frozenset({Right.READ}), int(time.time()) + 86_400, "k")


def cursors(chance: Random) -> None:
    """A cursor is an id of two 64-bit numbers or a word that we know, or `invalid_cursor`."""
    number = str(chance.choice((0, 1, _MOST, _MOST + 1, chance.randrange(2**70))))
    text = chance.choice(
        (give.text(chance), f"{number}-{chance.randrange(2**65)}", number + "-1" + give.text(chance, 1))
    )
    try:
        found = EventId.parse(text)
    except ValueError:
        pass
    else:
        assert max(found.epoch, found.seq) <= _MOST
        assert EventId.parse(str(found)) == found
    try:
        start = start_of(cast("Request", SimpleNamespace(headers={"last-event-id": text})), None)
    except TailraceError as refused:
        assert refused.code == "invalid_cursor"
    else:
        assert start.now or start.cursor.epoch <= _MOST


def names(chance: Random) -> None:
    """What else comes in headers and paths: nothing odd is taken for an id or a key."""
    text = give.text(chance)
    if is_job_id(text):
        assert text.isascii()
        assert text.isalnum()
    assert key_id_of(text) is None or text.isascii()
    given = Headers(raw=[(b"x-request-id", text.encode("utf-8", "replace"))])
    taken = request_id_of(given)
    assert taken.isascii()
    assert taken.isprintable()
    assert 0 < len(taken) <= 64
    try:
        check_key(text)
    except TailraceError as refused:
        assert refused.code == "invalid_request"
    else:
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text


_BODY = {
    "provider": "scripted", "model": "demo", "messages": [{"role": "user", "content": "hi", "name": "n"}],
    "system": "s",    "max_tokens": 5, "temperature": 0.5, "params": {"text": "x", "tokens": 3,
    "seed": 1}, "metadata": {"a": "b"},
    "ttl_s": 9,    "on_interrupt": "restart", "priority": 5,
}  # fmt: skip


def bodies(chance: Random) -> None:
    """A body is refused in our words, or is a request that can be stored and compared."""
    given = give.as_json(chance, give.spoiled(chance, _BODY))
    try:
        parsed = json.loads(given)
    except (ValueError, RecursionError):
        return
    try:
        request = JobIn.model_validate(parsed).to_request(_SETTINGS, faults=False)
    except ValidationError as error:
        refused = from_body(error)
        assert refused.code in {"invalid_request", "invalid_json"}
    except TailraceError as refused:
        assert refused.kind.status == 400
    else:
        stored = msgspec.json.encode(request)
        assert b"\\u0000" not in stored
        assert len(PLAIN.fingerprint(msgspec.json.encode(request, order="sorted"))) == 64


def capabilities(chance: Random) -> None:
    """No change of a token makes another that opens something."""
    kind = chance.random()
    if kind < 0.3:
        token = give.text(chance) + "." + give.text(chance, 2) + "." + give.text(chance, 2)
    elif kind < 0.5:
        parts = _TOKEN.split(".")
        parts[chance.randrange(3)] = chance.choice(("", "e30", "eyJhbGciOiJub25lIn0", parts[chance.randrange(3)]))
        token = ".".join(parts)
    else:
        token = give.broken(chance, _TOKEN.encode()).decode("utf-8", "replace")
    tokens.key_id_in(token)
    if token == _TOKEN:
        return
    try:
        capability = tokens.read(token, _KEY)
    except TailraceError as refused:
        assert refused.code == "unauthorized"
    else:  # base64 leaves bits at its end that mean nothing
        assert capability.principal.rights == {Right.READ}
        assert capability.principal.job_id == _JOB.id


def stored(chance: Random) -> None:
    """An entry of a log, whatever is in it, can be read, and shown where it is of this version."""
    field = chance.choice("qstrcxdfz?TRC") + chance.choice(("", "@5", "@", "@" + "9" * chance.choice((19, 5000)), "@٣"))
    value = chance.choice((give.whole_text(chance), json.dumps(give.value(chance))))
    try:
        value.encode()
    except UnicodeEncodeError:
        return
    event = decode(field, value)
    if event.letter not in "?q" and field[0] == event.letter:
        assert decode(*encode(event)) == event


def merged(chance: Random) -> None:
    """Whatever stands in a merged entry can be expanded; what was merged comes back."""
    if chance.random() < 0.4:
        last, field = EventId(7, chance.randrange(1, 400)), chance.choice("TRC") + chance.choice(("", "@5", "@x"))
        found = expand(last, field, chance.choice((give.whole_text(chance), "W10=", "q1YAAAA=")))
        assert found[-1].id == last
        assert apart(together(last, field, "q1YAAAA="))[-1].id == last
        return
    texts = [give.whole_text(chance, 3) for _ in range(chance.randint(1, 8))]
    letter = chance.choice("tr")
    for row in merge([(f"7-{seq}", [letter, text]) for seq, text in enumerate(texts, 3)]):
        last = EventId.parse(row.id)
        if row.field.isupper():
            expected = [Entry(EventId(7, seq), decode(letter, text)) for seq, text in enumerate(texts, 3)]
            assert expand(last, row.field, row.value) == expected
            assert apart(together(last, row.field, row.value)) == expected


def _event(chance: Random) -> Event:
    def text() -> str:
        return give.whole_text(chance)

    match chance.randrange(9):
        case 0:
            return Queued(text(), text(), text(), chance.randrange(10**12))
        case 1:
            return Start(1, text(), text(), 2, chance.choice((None, 5)))
        case 2:
            return Reset(
                2, 0, text(), text(), text(), [{"index": 0, "id": text(), "name": text(), "arguments": text()}]
            )
        case 3:
            return Done(text(), {text(): 1}, 3, 1, {text(): 1.5})
        case 4:
            return Failed(text(), text(), False, 1, {})
        case 5:
            return Cancelled(text(), 1, {})
        case 6:
            return ToolCall(0, text(), text(), text())
        case 7:
            return Reasoning(text(), chance.choice((None, 3)))
        case _:
            return Token(text(), chance.choice((None, 3)))


def written(chance: Random) -> None:
    """No text of an event adds a frame, a field or an id, in any dialect."""
    log = [Entry(EventId(7, seq), _event(chance)) for seq in range(1, chance.randint(2, 5))]
    ids = {str(entry.id) for entry in log}
    for name, make in DIALECTS.items():
        writer = make()
        writer.about(give.whole_text(chance))
        seen = frames(writer.write(log))
        assert {event.id for event in seen} <= {*ids, None}
        if name == "native-exact":
            assert [(event.id, event.event) for event in seen] == [(str(entry.id), entry.event.type) for entry in log]
            assert [event.data for event in seen] == [data(entry.event) for entry in log]
        assert len(seen) <= 2 * len(log)


def cutting(chance: Random) -> None:
    """A provider's frames are the same however its bytes are cut, and no bytes break the cutter."""
    body = give.broken(
        chance, b'event: x\ndata: {"a":1}\n\ndata: x\r\ndata:y\r\n\r\n: c\nid: 5\n\ndata: [DONE]\n\n' * 2
    )
    decoder, parts = wire.Decoder(), give.cut(chance, body)
    assert [frame for part in parts for frame in decoder.feed(part)] == wire.Decoder().feed(body)


_CALL = {"index": 0, "id": "call_1", "function": {"name": "f", "arguments": "{}"}}
_OPENAI: list[Any] = [
    {"choices": [{"index": 0, "delta": {"content": "hi", "reasoning_content": None}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"refusal": "no", "reasoning": "so"}}]},
    {"choices": [{"index": 0, "delta": {"tool_calls": [_CALL]}}]},
    {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    },
    {"error": {"message": "no", "type": "server_error", "code": None}},
]
_ANTHROPIC: list[Any] = [
    {"type": "message_start", "message": {"usage": {"input_tokens": 3}}},
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    },
    {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "hi"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "thinking_delta", "thinking": "so"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
    {"type": "message_stop"},
]
_RESPONSES: list[Any] = [
    {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1", "status": "queued"}},
    {"type": "response.output_text.delta", "sequence_number": 1, "delta": "hi"},
    {"type": "response.reasoning_text.delta", "sequence_number": 2, "delta": "so"},
    {
        "type": "response.output_item.added",
        "output_index": 1,
        "item": {"type": "function_call", "call_id": "c", "name": "f"},
    },
    {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "{}"},
    {
        "type": "response.completed",
        "response": {"status": "completed", "usage": {"input_tokens": 1, "output_tokens": 2}},
    },
]


def _answers(reader: Callable[[None], wire.Reader], sound: list[Any]) -> Callable[[Random], None]:
    def target(chance: Random) -> None:
        answer, seq = reader(None), 1
        given = [give.as_json(chance, give.spoiled(chance, chance.choice(sound))) for _ in range(chance.randint(1, 4))]
        try:
            for at, frame in enumerate([*given, b""]):
                pieces = answer.feed(frame) if at < len(given) else answer.finish()
                for piece in pieces:
                    seq += 1
                    _take(piece, seq)
        except ProviderError as error:
            assert error.message.isascii()
        except AssertionError:
            raise
        except Exception as error:
            # As the adapter does: any other error is put into our words.
            assert failures.classify(error, started=True).message.isascii()

    return target


def _take(piece: object, seq: int) -> None:
    """A piece can be stored, read again, and shown as one frame."""
    if isinstance(piece, Token | Reasoning | ToolCall):
        field, value = encode(piece)
        value.encode()
        assert decode(field, value) == piece
        (seen,) = frames(DIALECTS["native-exact"]().write([Entry(EventId(7, seq), piece)]))
        assert (seen.id, seen.event, seen.data) == (f"7-{seq}", piece.type, data(piece))
    elif isinstance(piece, Usage):
        assert all(type(count) is int for count in piece.counts.values())
    elif isinstance(piece, Finish):
        assert piece.reason in {"stop", "length", "tool_calls", "content_filter", "other"}


TARGETS: dict[str, Callable[[Random], None]] = {
    "cursors": cursors,
    "names": names,
    "bodies": bodies,
    "capabilities": capabilities,
    "stored": stored,
    "merged": merged,
    "written": written,
    "cutting": cutting,
    "openai": _answers(OpenAIAnswer, _OPENAI),
    "anthropic": _answers(AnthropicAnswer, _ANTHROPIC),
    "responses": _answers(ResponsesAnswer, _RESPONSES),
}
