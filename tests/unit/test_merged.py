"""Merged entries: what a finished log holds in few of them comes back event by event, as it was appended."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.events import START, Entry, EventId, Reasoning, Start, Token, ToolCall, Unknown, apart, encode, size
from shared.storage.log import all_entries, read_page
from shared.storage.merged import MERGED, MOST_CHARS, MOST_EVENTS, RawEntries, merge, together
from tests.support.logs import TEXT, logs


def raw_of(log: list[Entry]) -> RawEntries:
    """The log as the store gives it when nothing is merged."""
    return [(str(entry.id), list(encode(entry.event))) for entry in log]


def compact(raw: RawEntries) -> RawEntries:
    """The same after a worker has rewritten it."""
    return [(row.id, [row.field, row.value]) for row in merge(raw)]


def tokens(*texts: str, epoch: int = 7, first: int = 3) -> list[Entry]:
    """An attempt's text."""
    return [Entry(EventId(epoch, seq), Token(text)) for seq, text in enumerate(texts, start=first)]


@given(logs())
def test_every_log_comes_back_from_its_compact_form(log: list[Entry]) -> None:
    raw = compact(raw_of(log))
    assert all_entries(raw) == log
    assert raw[-1][0] == str(log[-1].id)
    assert compact(raw) == raw


@given(st.lists(TEXT, min_size=2, max_size=20), st.sampled_from((Token, Reasoning)), st.none() | st.integers(0, 2**53))
@example(["", ""], Token, 0)
@example(["\x00", "\U0001f642", '","', "\ud7ff\ue000"], Reasoning, None)
def test_any_texts_become_one_entry_and_come_back(
    texts: list[str], kind: type[Token | Reasoning], at_ms: int | None
) -> None:
    log = [Entry(EventId(9, seq), kind(text, None if seq > 3 else at_ms)) for seq, text in enumerate(texts, start=3)]
    ((last, (field, value)),) = compact(raw_of(log))
    assert all_entries([(last, [field, value])]) == log
    assert apart(together(EventId.parse(last), field, value)) == log


@given(logs(), st.data())
def test_every_cursor_has_the_same_answer_before_and_after(log: list[Entry], data: st.DataObject) -> None:
    seq = data.draw(st.integers(0, len(log) + 1))
    epoch = data.draw(st.sampled_from([0, 1, *{entry.id.epoch for entry in log}, 2**64 - 1]))
    cursor = EventId(epoch, seq)
    plain, merged = raw_of(log), compact(raw_of(log))

    def answered(raw: RawEntries) -> tuple[bool, list[Entry], bool, bool]:
        """What XRANGE gives from the cursor on, judged."""
        behind = [(entry_id, fields) for entry_id, fields in raw if EventId.parse(entry_id) >= cursor]
        page = read_page(cursor, behind, 1000)
        return page.held, page.entries, page.at_end, page.empty_log

    held, entries, *_ = answered(merged)
    assert answered(merged) == answered(plain)
    assert held is (cursor == START or any(entry.id == cursor for entry in log))
    assert not held or entries == [entry for entry in log if entry.id > cursor]


@given(logs(), st.data())
def test_texts_that_stay_together_are_the_same_events(log: list[Entry], data: st.DataObject) -> None:
    cursor = data.draw(st.sampled_from([START, *(entry.id for entry in log), EventId(3, 3)]))
    behind = [row for row in compact(raw_of(log)) if EventId.parse(row[0]) >= cursor]
    single, joined = (read_page(cursor, behind, 1000, together=flag) for flag in (False, True))
    assert apart(joined.entries) == single.entries
    assert (joined.held, joined.full, joined.at_end) == (single.held, single.full, single.at_end)
    assert sum(map(size, joined.entries)) == len(single.entries)


def test_a_long_answer_is_read_in_few_entries() -> None:
    raw = compact(raw_of(tokens(*(str(number) for number in range(40 * MOST_EVENTS)))))
    page = read_page(EventId(7, 2), [("7-2", ["s", "{}"]), *raw], 129, together=True)
    assert len(page.entries) == 40
    assert page.full is False


def test_a_hole_between_merged_entries_is_seen_although_texts_stay_together() -> None:
    raw = compact(raw_of(tokens("a", "b") + tokens("c", "d", first=6)))
    page = read_page(EventId(7, 2), [("7-2", ["s", "{}"]), *raw], 9, together=True)
    assert [entry.id.seq for entry in page.entries] == [4]
    assert page.full is True


def test_only_neighbours_of_one_kind_and_one_epoch_are_merged() -> None:
    log = [
        *tokens("a", "b"),
        Entry(EventId(7, 5), Reasoning("c")),
        Entry(EventId(7, 6), Reasoning("d")),
        Entry(EventId(7, 7), Token("e", 12)),
        Entry(EventId(7, 8), Token("f")),
        Entry(EventId(8, 9), Token("g")),
        Entry(EventId(8, 11), Token("h")),
        Entry(EventId(8, 12), ToolCall(0, "i", "n", "{")),
        Entry(EventId(8, 13), ToolCall(0, "", "", "}")),
        Entry(EventId(8, 14), Start(1, "p", "m", 0)),
    ]
    raw = compact(raw_of(log))
    assert [(entry_id, fields[0]) for entry_id, fields in raw if isinstance(fields, list)] == [
        ("7-4", "T"), ("7-6", "R"), ("7-8", "T@12"), ("8-9", "t"), ("8-11", "t"), ("8-13", "C"), ("8-14", "s")
    ]  # fmt: skip
    assert all_entries(raw) == log


def test_an_entry_holds_a_bounded_number_of_events_and_of_characters() -> None:
    raw = compact(raw_of(tokens(*(["x"] * (2 * MOST_EVENTS + 5)))))
    assert [len(all_entries([row])) for row in raw] == [MOST_EVENTS, MOST_EVENTS, 5]
    long, longer = "x" * (MOST_CHARS // 2), "y" * (MOST_CHARS + 1)
    raw = compact(raw_of(tokens(long, long, "z", longer, "z", "z")))
    assert [len(all_entries([row])) for row in raw] == [2, 1, 1, 2]


def test_a_page_of_merged_entries_is_bounded_and_says_that_there_is_more() -> None:
    log = tokens(*(str(number) for number in range(40 * MOST_EVENTS)))
    raw = compact(raw_of(log))
    seen: list[Entry] = []
    cursor = EventId(7, 2)
    while True:
        behind = [row for row in raw if EventId.parse(row[0]) >= cursor]
        page = read_page(cursor, [(str(cursor), ["s", "{}"]), *behind] if not seen else behind, 129)
        assert len(page.entries) <= 8 * 129 + MOST_EVENTS
        seen += page.entries
        cursor = seen[-1].id
        if not page.full:
            break
    assert seen == log


@pytest.mark.parametrize("value", ["", "?", "AAAA", "c3RyYW5nZQ=="])
@pytest.mark.parametrize("letter", sorted(MERGED))
def test_a_merged_entry_that_cannot_be_read_leaves_a_hole_and_breaks_nothing(letter: str, value: str) -> None:
    raw: RawEntries = [("7-4", ["t", "a"]), ("7-9", [letter, value]), ("7-10", ["t", "b"])]
    assert [type(entry.event) for entry in all_entries(raw)] == [Token, Unknown, Token]
    assert read_page(EventId(7, 4), raw, 9).held is False
    assert read_page(EventId(7, 6), raw[1:], 9).held is False
    assert read_page(EventId(7, 9), raw[1:], 9).held is True


def test_an_entry_with_more_than_one_field_is_somebodys_hand_and_breaks_nothing() -> None:
    page = read_page(START, [("0-1", ["q", "{}"]), ("7-2", ["t", "a", "u", "b"])], 9)
    assert page.entries[1] == Entry(EventId(7, 2), Token("a"))
