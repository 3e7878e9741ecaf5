"""The fold: what a reader has in hand after any run of events, and that a snapshot stands for all before it."""

from hypothesis import given
from hypothesis import strategies as st

from shared.events import Entry, Event, Reasoning, Reset, Start, Token, ToolCall
from shared.transcript import Transcript, fold
from tests.support.logs import ANY_EVENT, logs


def _shown(transcript: Transcript) -> tuple[str, str, list[dict[str, object]]]:
    return transcript.text, transcript.reasoning, transcript.tool_calls


def _snapshot(events: list[Event]) -> Reset:
    done = fold(events)
    return Reset(done.attempt, 0, "snapshot", done.text, done.reasoning or None, done.tool_calls or None, snapshot=True)


@given(logs(), st.data())
def test_a_snapshot_at_any_point_stands_for_all_before_it(log: list[Entry], draw: st.DataObject) -> None:
    events = [entry.event for entry in log]
    cut = draw.draw(st.integers(0, len(events)))

    resumed = fold([_snapshot(events[:cut]), *events[cut:]])

    assert _shown(resumed) == _shown(fold(events))
    assert resumed.attempt == fold(events).attempt


@given(st.lists(ANY_EVENT, max_size=12))
def test_looking_at_the_text_on_the_way_changes_nothing(events: list[Event]) -> None:
    watched = Transcript()
    for event in events:
        watched.apply(event)
        _shown(watched)
    assert watched.text == fold(events).text


def test_a_reset_keeps_code_points_and_not_bytes() -> None:
    assert fold([Token("añ\U0001f642!"), Reset(2, 3, "worker_lost")]).text == "añ\U0001f642"


def test_a_reset_appends_its_text_to_what_it_keeps() -> None:
    assert fold([Token("abc"), Reset(2, 1, "r", text="X"), Token("y")]).text == "aXy"


def test_a_reset_that_keeps_more_than_there_is_keeps_all() -> None:
    assert fold([Token("ab"), Reset(2, 99, "r")]).text == "ab"


def test_reasoning_and_tool_calls_go_with_the_abandoned_attempt() -> None:
    before: list[Event] = [Reasoning("hm"), ToolCall(0, "a", "f", "{"), Token("x")]
    assert _shown(fold([*before, Reset(2, 0, "worker_lost")])) == ("", "", [])


def test_a_tool_calls_arguments_grow_and_its_name_comes_first() -> None:
    pieces = [ToolCall(1, "b", "g", ""), ToolCall(0, "a", "f", '{"x"'), ToolCall(0, "", "", ": 1}")]
    assert fold(pieces).tool_calls == [
        {"index": 0, "id": "a", "name": "f", "arguments": '{"x": 1}'},
        {"index": 1, "id": "b", "name": "g", "arguments": ""},
    ]


def test_a_snapshots_tool_calls_go_on_growing_and_the_snapshot_stays_as_it_was() -> None:
    snapshot = _snapshot([ToolCall(0, "a", "f", "{")])
    assert fold([snapshot, ToolCall(0, "", "", "}")]).tool_calls[0]["arguments"] == "{}"
    assert snapshot.tool_calls == [{"index": 0, "id": "a", "name": "f", "arguments": "{"}]


def test_tokens_are_counted_for_the_last_attempt_alone() -> None:
    start = Start(2, "scripted", "demo", 1)
    done = fold([Token("a"), Token("b"), Reset(2, 0, "worker_lost"), start, Token("c")])
    assert (done.tokens, done.attempt) == (1, 2)
