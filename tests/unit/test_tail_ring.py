"""The ring of one shared tail: what follows a cursor, exactly or not at all, and bytes encoded once for all readers."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.tail import FRAMES_KEPT, Tail
from shared.events import Cancelled, Entry, EventId, Token
from shared.jobs import JobKey
from tests.support.logs import logs

JOB = JobKey("default", "0" * 26)
BASE = EventId(5, 10)


def _entries(first: int, last: int, epoch: int = 5) -> list[Entry]:
    return [Entry(EventId(epoch, seq), Token(f"{seq} ")) for seq in range(first, last + 1)]


@pytest.fixture
async def tail() -> Tail:
    """A tail of four events that begins after seq 10."""
    made = Tail(JOB, 4)
    made.rebase(BASE)
    return made


def _pieces(log: list[Entry], draw: st.DataObject) -> Iterator[list[Entry]]:
    while log:
        size = draw.draw(st.integers(1, len(log)))
        yield log[:size]
        log = log[size:]


@settings(max_examples=60)
@given(log=logs(), ring=st.integers(1, 12), draw=st.data())
async def test_any_cursor_inside_gets_exactly_what_follows_it(log: list[Entry], ring: int, draw: st.DataObject) -> None:
    base = draw.draw(st.integers(0, len(log) - 1))
    most = draw.draw(st.integers(1, 5))
    made = Tail(JOB, ring)
    made.rebase(log[base].id)
    for piece in _pieces(log[base + 1 :], draw):
        made.extend(piece)

    oldest = max(base, len(log) - 1 - ring)
    for place, entry in enumerate(log):
        assert made.after(entry.id, most) == (log[place + 1 :][:most] if place >= oldest else None)
    assert made.cursor == log[-1].id
    assert made.base == log[oldest].id


@pytest.mark.parametrize("cursor", [
    EventId(5, 9),  # before the ring
    EventId(5, 13),  # beyond it
    EventId(4, 10),  # of the place where the ring begins, but of another epoch
    EventId(6, 11),  # within it, but of another epoch
    EventId(0, 0),
])  # fmt: skip
async def test_a_cursor_that_the_ring_does_not_hold_gets_nothing_from_it(tail: Tail, cursor: EventId) -> None:
    tail.extend(_entries(11, 12))
    assert tail.after(cursor) is None


async def test_nobody_is_served_before_the_log_was_looked_at() -> None:
    fresh = Tail(JOB, 4)
    assert fresh.after(BASE) is None
    assert fresh.cursor is None


async def test_a_reader_at_the_end_gets_an_empty_run_and_not_a_refusal(tail: Tail) -> None:
    assert tail.after(BASE) == []
    tail.extend(_entries(11, 12))
    assert tail.after(EventId(5, 12)) == []


async def test_a_full_ring_forgets_its_oldest_and_says_so(tail: Tail) -> None:
    tail.extend(_entries(11, 16))
    assert tail.after(EventId(5, 11)) is None
    assert tail.after(EventId(5, 12)) == _entries(13, 16)


async def test_more_than_a_ring_at_once_leaves_the_ring_whole(tail: Tail) -> None:
    tail.extend(_entries(11, 40))
    assert tail.base == EventId(5, 36)
    assert tail.after(EventId(5, 36)) == _entries(37, 40)


async def test_a_tail_whose_log_is_not_what_it_was_holds_nothing(tail: Tail) -> None:
    tail.extend(_entries(11, 12))
    tail.rebase(None)
    assert tail.after(EventId(5, 12)) is None
    tail.rebase(EventId(6, 11))
    assert tail.after(EventId(6, 11)) == []
    assert tail.after(EventId(5, 11)) is None


async def test_only_a_terminal_event_ends_it(tail: Tail) -> None:
    tail.extend(_entries(11, 12))
    assert not tail.ended
    tail.extend([Entry(EventId(6, 13), Cancelled("user", 1, {}))])
    assert tail.ended


@pytest.mark.parametrize("what", ["extend", "rebase", "wake"])
async def test_everything_that_is_new_wakes_every_waiter(tail: Tail, what: str) -> None:
    waiting = [asyncio.create_task(tail.changed(tail.version, 60)) for _ in range(3)]
    await asyncio.sleep(0)
    {"extend": lambda: tail.extend(_entries(11, 11)), "rebase": lambda: tail.rebase(None), "wake": tail.wake}[what]()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*waiting) == [True] * 3


async def test_what_happened_before_the_wait_is_not_waited_for(tail: Tail) -> None:
    version = tail.version
    tail.extend(_entries(11, 11))
    async with asyncio.timeout(5):
        assert await tail.changed(version, 60) is True


async def test_silence_is_told_and_a_waiter_that_leaves_leaves_nothing(tail: Tail) -> None:
    assert await tail.changed(tail.version, 0) is False
    gone = asyncio.create_task(tail.changed(tail.version, 60))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert tail._waiters == []


async def test_a_run_is_encoded_once_for_all_readers_of_a_dialect(tail: Tail) -> None:
    encoded = []

    def encode(entries: list[Entry]) -> bytes:
        encoded.append(entries)
        return b"%d" % len(encoded)

    run, other = _entries(11, 14), _entries(11, 13)
    assert [tail.frame("native", run, encode) for _ in range(3)] == [b"1"] * 3
    assert tail.frame("native-exact", run, encode) == b"2"
    assert tail.frame("native", other, encode) == b"3"
    assert encoded == [run, run, other]


async def test_frames_of_a_log_that_was_lost_are_never_shown_again(tail: Tail) -> None:
    tail.frame("native", _entries(11, 12), lambda _: b"before")
    tail.rebase(None)
    assert tail.frame("native", _entries(11, 12), lambda _: b"after") == b"after"


async def test_the_frames_kept_are_bounded(tail: Tail) -> None:
    for seq in range(FRAMES_KEPT * 2):
        tail.frame("native", _entries(seq, seq), lambda _: b"x")
    assert len(tail._frames) == FRAMES_KEPT
