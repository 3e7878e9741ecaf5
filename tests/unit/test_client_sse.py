"""The client's SSE decoder: the standard's examples, and the promise that packet boundaries mean nothing."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tailrace_client.errors import BrokenStreamError
from tailrace_client.sse import Decoder, Frame


def decode(*chunks: bytes) -> list[Frame]:
    """All frames of a connection that brought these chunks."""
    decoder = Decoder()
    return [frame for chunk in chunks for frame in decoder.feed(chunk)]


def byte_by_byte(wire: bytes) -> list[Frame]:
    """The same bytes, one at a time."""
    return decode(*(wire[i : i + 1] for i in range(len(wire))))


# The examples of WHATWG HTML § 9.2.6, and the corners of its grammar.
STANDARD = {
    "two data lines are one event": (
        b"data: YHOO\ndata: +2\ndata: 10\n\n",
        [Frame("message", "YHOO\n+2\n10")],
    ),
    "a comment, an id, an id that is emptied, a leading space kept": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
        [Frame("message", "first event", "1"), Frame("message", "second event", "")],
    ),
    "the third event arrives once its blank line does": (
        b"data:second event\nid\n\ndata:  third event\n\n",
        [Frame("message", "second event", ""), Frame("message", " third event")],
    ),
    "data without a value, and an unfinished block": (
        b"data\n\ndata\ndata\n\ndata:",
        [Frame("message", ""), Frame("message", "\n")],
    ),
    "one space after the colon is ignored": (
        b"data:test\n\ndata: test\n\n",
        [Frame("message", "test"), Frame("message", "test")],
    ),
    "an event type holds for one event": (
        b"event: add\ndata: 1\n\ndata: 2\n\n",
        [Frame("add", "1"), Frame("message", "2")],
    ),
    "an event type without data is forgotten": (
        b"event: add\n\ndata: 2\n\n",
        [Frame("message", "2")],
    ),
    "unknown fields and lines without a colon are ignored": (
        b"colour: red\nnonsense\nDATA: no\ndata: yes\n\n",
        [Frame("message", "yes")],
    ),
    "a colon in the value stays": (b"data: a:b: c\n\n", [Frame("message", "a:b: c")]),
    "one byte-order mark at the start is ignored": (
        b"\xef\xbb\xbfdata: 1\n\n\xef\xbb\xbfdata: 2\n\ndata: 3\n\n",
        [Frame("message", "1"), Frame("message", "3")],
    ),
    "an id with NUL is ignored": (
        b"id: 1\nid: 2\x003\ndata: x\n\n",
        [Frame("message", "x", "1")],
    ),
    "bytes that are no UTF-8 become U+FFFD": (b"data: \xff\xc3\n\n", [Frame("message", "��")]),
    "only CR, LF and CRLF end a line": (
        "data: a\u2028b\u0085c\x0bd\x0ce\x1cf\n\n".encode(),
        [Frame("message", "a\u2028b\u0085c\x0bd\x0ce\x1cf")],
    ),
}


@pytest.mark.parametrize("feed", [decode, byte_by_byte], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("line_break", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
@pytest.mark.parametrize("name", STANDARD)
def test_the_standard_is_kept_with_every_line_break_in_every_packet(
    name: str, line_break: bytes, feed: Callable[..., list[Frame]]
) -> None:
    wire, frames = STANDARD[name]
    assert feed(wire.replace(b"\n", line_break)) == frames


def test_a_heartbeat_after_an_id_is_not_an_event() -> None:
    wire = b"id: 7-3\nevent: token\ndata: {}\n\n: ka\n: ka\n\n: ka\n\nretry: 500\n\nid: 7-4\nevent: token\ndata: {}\n\n"
    assert byte_by_byte(wire) == [Frame("token", "{}", "7-3"), Frame("token", "{}", "7-4")]


def test_a_frame_without_an_id_does_not_inherit_one() -> None:
    assert decode(b"id: 7-3\ndata: a\n\ndata: b\n\n") == [Frame("message", "a", "7-3"), Frame("message", "b", None)]


def test_the_last_event_id_is_the_standards() -> None:
    decoder = Decoder()
    decoder.feed(b"id: 1\ndata: a\n\ndata: b\n\nid: 2\n\n")
    assert decoder.last_event_id == "2"


def test_an_event_is_there_with_its_last_byte_even_if_a_line_feed_may_follow() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: a\r\r") == [Frame("message", "a")]
    assert decoder.feed(b"\ndata: b\r\n\r\n") == [Frame("message", "b")]


@pytest.mark.parametrize(("line", "expected"), [("1500", 1500), ("0", 0), ("-1", None), ("1.5", None), ("٣", None)])
def test_a_retry_line_counts_when_it_is_digits_and_needs_no_blank_line(line: str, expected: int | None) -> None:
    decoder = Decoder()
    assert decoder.feed(f"retry: {line}\n".encode()) == []
    assert decoder.retry_ms == expected


def test_an_event_without_an_end_is_refused_before_it_fills_the_memory() -> None:
    decoder = Decoder(max_frame_bytes=1000)
    endless = itertools.repeat(b"data: " + b"x" * 90 + b"\n", 100)
    with pytest.raises(BrokenStreamError):
        [decoder.feed(line) for line in endless]


def test_any_number_of_small_events_and_heartbeats_is_welcome() -> None:
    decoder = Decoder(max_frame_bytes=1000)
    for _ in itertools.repeat(None, 100):
        assert decoder.feed(b": ka\n" * 10) == []
    for _ in itertools.repeat(None, 100):
        assert decoder.feed(b"data: " + b"x" * 90 + b"\n\n") == [Frame("message", "x" * 90)]


lines = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)
ids = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=8)
frames_sent = st.lists(
    st.builds(Frame, lines.filter(bool), st.lists(lines, min_size=1).map("\n".join), st.none() | ids)
)
between = st.lists(st.sampled_from(["", ": ka", "retry: 10", "unknown: x"]), max_size=3)


@settings(deadline=None)
@given(st.data(), frames_sent, st.sampled_from(["\n", "\r", "\r\n"]))
def test_any_frames_in_any_packets_come_out_the_same(data: st.DataObject, frames: list[Frame], line_break: str) -> None:
    written: list[str] = []
    for frame in frames:
        written += data.draw(between)
        written += [f"id: {frame.id}"] if frame.id is not None else []
        written += [f"event: {frame.event}", *(f"data: {line}" for line in frame.data.split("\n")), ""]
    wire = "".join(line + line_break for line in written).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)))))
    chunks = [wire[a:b] for a, b in itertools.pairwise([0, *cuts, len(wire)])]
    assert decode(*chunks) == frames
