"""The event codec and the ids: what is written into a log comes back as it was, and nothing else is taken for an id."""

import contextlib
import gc

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.events import (
    TYPES,
    Cancelled,
    Entry,
    Event,
    EventId,
    Queued,
    Reset,
    Token,
    Unknown,
    clean_text,
    data,
    decode,
    encode,
    letter_and_time,
    rfc3339,
)
from shared.transcript import fold
from tests.support.logs import ANY_EVENT, TERMINAL, TEXT

_part = st.integers(0, 2**64 - 1)


@given(ANY_EVENT)
@example(Token("\r\n \u2028\U0001f642\x00"))
@example(Reset(2, 0, "worker_lost", text="", tool_calls=[], at_ms=0))
def test_every_event_comes_back_from_the_log_as_it_was_written(event: Event) -> None:
    assert decode(*encode(event)) == event


@given(TEXT, st.integers(0, 2**53))
def test_a_token_costs_the_log_its_text_and_one_letter(text: str, at_ms: int) -> None:
    assert encode(Token(text)) == ("t", text)
    assert encode(Token(text, at_ms)) == (f"t@{at_ms}", text)


def test_no_two_types_share_a_letter_or_a_name() -> None:
    assert len({kind.letter for kind in TYPES}) == len({kind.type for kind in TYPES}) == len(TYPES)


def test_a_time_stands_in_the_field_name_and_not_in_the_value() -> None:
    field, value = encode(Cancelled("user", 1, {"latency_ms": 7}, at_ms=7))
    assert letter_and_time(field) == ("z", 7)
    assert "at_ms" not in value


@pytest.mark.parametrize(("field", "value"), [
    ("?", "{}"), ("", ""), ("tt", "a"), ("d", "{"), ("d", "[]"), ("d", '{"finish_reason": 3}'), ("s", '{"attempt": 1}'),
    ("q@1", "null"), ("@5", "a"),
])  # fmt: skip
def test_an_entry_of_a_newer_version_keeps_its_place_and_stops_nobody(field: str, value: str) -> None:
    event = decode(field, value)
    assert event == Unknown()
    assert (data(event), event.type) == ({}, "unknown")
    assert fold([Token("a"), event, Token("b")]).text == "ab"


def test_a_newer_version_may_add_what_this_one_does_not_know() -> None:
    assert decode("z@7+x", '{"reason":"user","attempt":1,"timings":{},"new":1}') == Cancelled("user", 1, {})


@given(_part, _part)
def test_every_id_is_read_as_it_is_shown(epoch: int, seq: int) -> None:
    assert EventId.parse(str(EventId(epoch, seq))) == EventId(epoch, seq)


@given(st.tuples(_part, _part), st.tuples(_part, _part))
def test_ids_are_ordered_by_epoch_then_seq(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (EventId(*one) < EventId(*other)) == (one < other)


@pytest.mark.parametrize("text", [
    "", "1", "-", "1-", "-1", "--1", "1-2-3", " 1-2", "1-2 ", "1-2\n", "\n1-2", "1 -2", "+1-2", "1_0-2", "1.0-2",
    "0x1-2", "a-b", "1-\uff12", "\u0661-1", "$", "1\x00-2", "18446744073709551616-0", "0-18446744073709551616",
    "000000000000000000001-1",
])  # fmt: skip
def test_what_is_not_an_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an event id"):
        EventId.parse(text)


@given(st.text(max_size=30))
def test_any_text_is_an_id_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert str(EventId.parse(text)).split("-") == [part.lstrip("0") or "0" for part in text.split("-")]


@given(ANY_EVENT)
def test_the_data_of_an_event_is_one_line_of_json_without_nulls(event: Event) -> None:
    body = data(event)
    assert None not in body.values()
    assert b"\n" not in msgspec.json.encode(body)


@given(TERMINAL)
def test_every_terminal_event_shows_its_usage(event: Event) -> None:
    assert isinstance(data(event)["usage"], dict)


def test_the_number_of_calls_is_for_the_store_alone() -> None:
    event = Cancelled("user", 1, {}, {"output_tokens": 2, "provider_calls": 3})
    assert data(event)["usage"] == {"output_tokens": 2}
    assert decode(*encode(event)) == event
    assert event.usage["provider_calls"] == 3


def test_queued_shows_when_the_job_was_made() -> None:
    assert data(Queued("j", "scripted", "demo", 1_999)) == {
        "job_id": "j",
        "provider": "scripted",
        "model": "demo",
        "created_at": "1970-01-01T00:00:01.999Z",
    }


def test_a_reset_that_keeps_nothing_says_so() -> None:
    assert data(Reset(2, 0, "drained")) == {"attempt": 2, "keep": 0, "reason": "drained"}


@pytest.mark.parametrize(("ms", "shown"), [
    (0, "1970-01-01T00:00:00.000Z"),
    (1_763_800_000_007, "2025-11-22T08:26:40.007Z"),
    (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
])  # fmt: skip
def test_times_are_utc_with_milliseconds(ms: int, shown: str) -> None:
    assert rfc3339(ms) == shown


def _units(text: str) -> str:
    """`text` as a provider sends it that escapes each UTF-16 unit by itself."""
    raw = text.encode("utf-16-le")
    return "".join(chr(raw[at] | raw[at + 1] << 8) for at in range(0, len(raw), 2))


@given(TEXT)
def test_pairs_that_came_as_two_escapes_are_joined(text: str) -> None:
    assert clean_text(_units(text)) == text


@given(st.text(alphabet=st.characters(codec=None, exclude_categories=()), max_size=20))
def test_cleaned_text_can_always_be_stored(text: str) -> None:
    cleaned = clean_text(text)
    assert cleaned.encode().decode() == cleaned
    assert clean_text(cleaned) == cleaned


@pytest.mark.parametrize(("text", "cleaned"), [
    ("a\ud83db", "a\ufffdb"),
    ("\ud83d", "\ufffd"),
    ("\ude00\ud83d", "\ufffd\ufffd"),
    ("\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
    ("plain", "plain"),
])  # fmt: skip
def test_half_a_pair_becomes_the_replacement_character(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


def test_what_a_node_keeps_of_a_log_costs_no_collection_of_garbage() -> None:
    entry = Entry(EventId(1, 2), Token("a"))
    assert [gc.is_tracked(each) for each in (entry, entry.id, entry.event)] == [False, False, False]
