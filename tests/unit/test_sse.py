"""Events as SSE bytes: whatever stands in a log, and however it is joined, a strict parser gets the same back."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api import sse
from api.dialects.native import Native
from shared.events import TYPES, Entry, EventId, Failed, Reasoning, Reset, Texts, Token, apart, data
from shared.storage.merged import MOST_CHARS, MOST_EVENTS
from shared.transcript import fold
from tests.support.logs import TEXT, logs
from tests.support.sse_reader import Frame, SseReader, shown

NAMES = {kind.type for kind in TYPES}


def _runs(log: list[Entry], draw: st.DataObject) -> list[list[Entry]]:
    """`log` cut anywhere, as a reader gets it."""
    cuts = sorted(draw.draw(st.sets(st.integers(1, max(1, len(log) - 1)), max_size=4)))
    return [log[start:end] for start, end in pairwise([0, *cuts, len(log)])]


def _parse(body: bytes) -> list[Frame]:
    """The frames of a whole body, which must not leave anything half said."""
    reader = SseReader()
    reader.feed(body)
    assert not reader.unfinished
    assert reader.idle_blanks == 0
    return reader.frames


def _folded(log: list[Entry]) -> str:
    return fold(entry.event for entry in log).text


def _said(log: list[Entry], kind: type[Token] | type[Reasoning]) -> str:
    return "".join(entry.event.text for entry in log if isinstance(entry.event, kind))


@given(logs(), st.data())
def test_exact_frames_are_the_entries_one_for_one(log: list[Entry], draw: st.DataObject) -> None:
    body = b"".join(Native(exact=True).write(run) for run in _runs(log, draw))

    frames = _parse(body)

    assert [frame.id for frame in frames] == [str(entry.id) for entry in log]
    assert [frame.event for frame in frames] == [entry.event.type for entry in log]
    assert [frame.body for frame in frames] == [data(entry.event) for entry in log]


@given(logs(), st.data())
def test_joined_frames_show_the_same_text_and_prove_their_wholeness(log: list[Entry], draw: st.DataObject) -> None:
    frames = _parse(b"".join(Native().write(run) for run in _runs(log, draw)))

    seqs = [0, *(frame.seq for frame in frames)]
    assert [before + frame.n for before, frame in zip(seqs, frames, strict=False)] == seqs[1:]
    assert frames[-1].id == str(log[-1].id)
    assert shown(frames).text == shown(_parse(Native(exact=True).write(log))).text == _folded(log)
    for kind in (Token, Reasoning):
        assert "".join(frame.body["text"] for frame in frames if frame.event == kind.type) == _said(log, kind)


@given(logs())
def test_nothing_is_joined_over_an_epoch_or_another_event(log: list[Entry]) -> None:
    ids = [entry.id for entry in log]
    for frame in _parse(Native().write(log)):
        last = ids.index(EventId(frame.epoch, frame.seq))
        members = log[last + 1 - frame.n : last + 1]
        assert {type(entry.event).type for entry in members} == {frame.event}
        assert len({entry.id.epoch for entry in members}) == 1


def test_a_run_of_tokens_is_one_frame_with_the_last_id_and_the_first_time() -> None:
    log = [Entry(EventId(7, seq), Token(text, at)) for seq, text, at in ((3, "a", 5), (4, "b", None), (5, " c", None))]
    assert Native().write(log) == b'id: 7-5\nevent: token\ndata: {"text":"ab c","at_ms":5,"n":3}\n\n'


def test_texts_that_were_read_together_are_written_as_if_each_had_come_by_itself() -> None:
    log = [
        Entry(EventId(5, 3), Texts("ab", "11", at_ms=7)),
        Entry(EventId(5, 4), Token("c")),
        Entry(EventId(5, 6), Texts("de", "11")),
        Entry(EventId(5, 8), Texts("fg", "11", reasoning=True, at_ms=9)),
        Entry(EventId(6, 10), Texts("hi", "11")),
    ]
    assert sse.native_run(log, exact=True) == sse.native_run(apart(log), exact=True)
    frames = SseReader().feed(sse.native_run(log, exact=False))
    assert [(frame.id, frame.body) for frame in frames] == [
        ("5-3", {"text": "ab", "at_ms": 7, "n": 2}),
        ("5-4", {"text": "c"}),
        ("5-6", {"text": "de", "n": 2}),
        ("5-8", {"text": "fg", "at_ms": 9, "n": 2}),
        ("6-10", {"text": "hi", "n": 2}),
    ]


def test_no_frame_of_a_long_replay_is_longer_than_a_line_that_clients_read() -> None:
    whole = Texts("€" * MOST_CHARS, chr(ord("0") + MOST_CHARS // MOST_EVENTS) * MOST_EVENTS)
    log = [Entry(EventId(5, 2 + MOST_EVENTS * number), whole) for number in range(1, 40)]
    lines = sse.native_run(log, exact=False).split(b"\n")
    assert max(map(len, lines)) < 65_536


def test_a_frame_of_one_event_says_nothing_of_joining() -> None:
    assert Native().write([Entry(EventId(7, 3), Token("a"))]) == b'id: 7-3\nevent: token\ndata: {"text":"a"}\n\n'


@given(TEXT, TEXT)
def test_text_can_make_neither_a_frame_nor_a_field(text: str, more: str) -> None:
    log = [
        Entry(EventId(7, 1), Token(text)),
        Entry(EventId(7, 2), Reset(2, 0, text, text=more)),
        Entry(EventId(7, 3), Failed(more, text, True, 1, {})),
    ]
    body = Native().write(log)
    assert [frame.event for frame in _parse(body)] == ["token", "reset", "failed"]
    assert body.count(b"\n") == 4 * len(log)
    assert b"\r" not in body


@pytest.mark.parametrize("line", [sse.HEARTBEAT, sse.retry(0), sse.retry(1500)])
def test_heartbeats_and_hints_end_with_one_newline(line: bytes) -> None:
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1


def test_the_first_bytes_dispatch_nothing_and_name_the_delay() -> None:
    assert sse.hello(1000) == b": tailrace\nretry: 1000\n"


@settings(max_examples=30)
@given(logs())
def test_a_heartbeat_or_a_hint_between_any_frames_changes_nothing(log: list[Entry]) -> None:
    frames = [Native().write([entry]) for entry in log]
    plain = b"".join(frames)
    assert _parse(sse.hello(5) + (sse.HEARTBEAT + sse.retry(5)).join(frames) + sse.HEARTBEAT) == _parse(plain)


def test_a_failure_that_is_not_in_the_log_moves_no_cursor() -> None:
    (frame,) = _parse(Native().lost(Failed("log_lost", "gone", True, 1, {})))
    assert (frame.id, frame.event, frame.body["code"]) == (None, "failed", "log_lost")


def test_event_names_are_the_contracts() -> None:
    assert {"queued", "start", "token", "reasoning", "tool_call", "reset", "done", "failed", "cancelled"} == NAMES
