"""One attempt: provider pieces become log events, whatever way the provider cut, counted and timed them."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProviderError, TailraceError
from shared.events import Event, Reasoning, Token, ToolCall
from shared.transcript import fold
from tests.support.logs import TEXT
from worker.attempt import Attempt, add_usage
from worker.providers.base import Finish, Piece, Usage

STOP = Finish("stop")


def _attempt(
    number: int = 1, *, usage: dict[str, int] | None = None, ttft_ms: int | None = None, most: int = 1000
) -> Attempt:
    return Attempt(number, usage_before=usage or {}, ttft_ms=ttft_ms, queue_ms=3, max_bytes=most)


def _events(attempt: Attempt, pieces: Iterable[Piece]) -> list[Event]:
    """The events of a whole stream, a piece every ten milliseconds from the tenth on."""
    made = [attempt.accept(piece, at_ms) for at_ms, piece in zip(range(10, 10**6, 10), pieces, strict=False)]
    return [event for event in (*made, *attempt.rest(20)) if event is not None]


def _in_units(text: str, cuts: Sequence[int]) -> list[str]:
    """`text` as UTF-16 units, each a character of its own, cut at `cuts`."""
    raw = text.encode("utf-16-le")
    units = "".join(chr(raw[at] | raw[at + 1] << 8) for at in range(0, len(raw), 2))
    places = sorted({0, len(units), *(cut % (len(units) + 1) for cut in cuts)})
    return [units[start:end] for start, end in pairwise(places)]


@given(TEXT, st.lists(st.integers(0, 100), max_size=6))
def test_a_pair_split_over_pieces_is_joined_wherever_the_cut_is(text: str, cuts: list[int]) -> None:
    attempt = _attempt(most=10_000)
    events = _events(attempt, [Token(piece) for piece in _in_units(text, cuts)])
    assert fold(events).text == text
    assert attempt.tokens == len(events)


def test_a_pair_split_over_the_arguments_of_a_tool_call_is_joined() -> None:
    events = _events(_attempt(), [ToolCall(0, "a", "f", '"\ud83d'), ToolCall(0, "", "", '\ude42"')])
    assert fold(events).tool_calls[0]["arguments"] == '"\U0001f642"'


def test_a_tool_calls_name_and_id_can_always_be_stored() -> None:
    (event,) = _events(_attempt(), [ToolCall(0, "a\ud83d", "f\ud83d", "{}")])
    assert event == ToolCall(0, "a\ufffd", "f\ufffd", "{}", 10)


def test_half_a_pair_that_stays_alone_becomes_the_replacement_character() -> None:
    attempt = _attempt()
    assert _events(attempt, [Token("a\ud83d"), Token("b"), Token("c\ud83d")]) == [
        Token("a", 10), Token("\ufffdb"), Token("c"), Token("\ufffd"),
    ]  # fmt: skip
    assert attempt.tokens == 4


def test_half_a_pair_stays_with_its_own_kind() -> None:
    reasoned = fold(_events(_attempt(), [Reasoning("a\ud83d"), Token("b")]))
    assert (reasoned.reasoning, reasoned.text) == ("a\ufffd", "b")


def test_an_answer_that_is_half_a_pair_is_an_answer() -> None:
    attempt = _attempt()
    assert _events(attempt, [Token("\ud83d"), STOP]) == [Token("\ufffd", 20)]
    assert attempt.done(30).tokens == 1


def test_the_first_content_event_alone_carries_its_time() -> None:
    attempt = _attempt()
    assert _events(attempt, [Usage({}), Reasoning("r"), Token("a"), Token("b")]) == [
        Reasoning("r", 20), Token("a"), Token("b"),
    ]  # fmt: skip
    assert (attempt.shown, attempt.ttft_ms) == (True, 20)


def test_an_empty_piece_is_no_event_and_shows_nothing() -> None:
    attempt = _attempt()
    assert _events(attempt, [Token(""), Reasoning("")]) == []
    assert (attempt.shown, attempt.ttft_ms, attempt.tokens) == (False, None, 0)


def test_time_to_first_token_stays_that_of_the_first_content_readers_ever_saw() -> None:
    attempt = _attempt(2, ttft_ms=5)
    assert _events(attempt, [Token("a")]) == [Token("a", 10)]
    assert attempt.timings(400)["ttft_ms"] == 5


def test_usage_sums_over_attempts_and_a_later_count_replaces_an_earlier_one() -> None:
    attempt = _attempt(2, usage={"input_tokens": 7, "output_tokens": 2})
    _events(
        attempt, [Usage({"output_tokens": 1}), Usage({"output_tokens": 4, "reasoning_tokens": 1}), Token("a"), STOP]
    )
    assert attempt.done(90).usage == {"input_tokens": 7, "output_tokens": 6, "reasoning_tokens": 1}


@given(*[st.dictionaries(st.sampled_from("abc"), st.integers(0, 100))] * 2)
def test_adding_usage_loses_no_name_and_changes_neither_side(one: dict[str, int], two: dict[str, int]) -> None:
    kept = dict(one), dict(two)
    total = add_usage(one, two)
    assert total == {name: one.get(name, 0) + two.get(name, 0) for name in {*one, *two}}
    assert (one, two) == kept


def test_an_answer_beyond_the_limit_is_refused_at_the_piece_that_crosses_it() -> None:
    attempt = _attempt(most=7)
    assert attempt.accept(Token("abc"), 1) is not None
    assert attempt.accept(ToolCall(0, "a", "f", "de"), 2) is not None  # its names count as well
    with pytest.raises(TailraceError) as caught:
        attempt.accept(Reasoning("f"), 3)
    assert caught.value.code == "output_too_large"


def test_the_limit_of_an_answer_is_counted_in_bytes_as_its_setting_says() -> None:
    with pytest.raises(TailraceError):
        _attempt(most=5).accept(Token("\U0001f642" * 2), 1)


@pytest.mark.parametrize("pieces", [[], [Token("a")], [Usage({"output_tokens": 1})]])
def test_a_stream_that_ends_without_the_providers_mark_is_no_answer(pieces: list[Piece]) -> None:
    attempt = _attempt()
    _events(attempt, pieces)
    with pytest.raises(ProviderError) as caught:
        attempt.done(50)
    assert (caught.value.code, caught.value.retryable) == ("provider_interrupted", True)


def test_an_end_without_any_content_is_no_answer() -> None:
    attempt = _attempt()
    _events(attempt, [Token(""), STOP])
    with pytest.raises(ProviderError) as caught:
        attempt.done(50)
    assert caught.value.code == "empty_output"


@pytest.mark.parametrize("reason", ["length", "content_filter", "tool_calls", "other"])
def test_an_end_that_explains_why_there_is_no_content_is_one(reason: str) -> None:
    attempt = _attempt()
    _events(attempt, [Finish(reason)])  # type: ignore[arg-type]  # the parameters are the literal's values
    assert attempt.done(50).finish_reason == reason


def test_a_new_call_of_the_attempt_begins_without_what_the_last_one_left() -> None:
    attempt = _attempt(usage={"input_tokens": 1})
    attempt.accept(Usage({"output_tokens": 9}), 1)
    attempt.accept(STOP, 1)
    attempt.accept(Token("\ud83d"), 1)

    attempt.begin_call()

    assert attempt.rest(0) == []
    assert attempt.usage == {"input_tokens": 1, "provider_calls": 1}
    with pytest.raises(ProviderError, match="provider_interrupted"):
        attempt.done(2)


def test_calls_are_summed_over_attempts_beside_the_tokens() -> None:
    attempt = _attempt(2, usage={"output_tokens": 1, "provider_calls": 3})
    for _ in range(2):
        attempt.begin_call()
    attempt.accept(Usage({"output_tokens": 9}), 1)
    assert attempt.usage == {"output_tokens": 10, "provider_calls": 5}


def test_timings_count_from_the_post_and_the_rate_from_the_first_content() -> None:
    attempt = _attempt()
    _events(attempt, [Token("a"), Token("b"), Token("c"), STOP])
    done = attempt.done(1010)
    assert done.timings == {"queue_ms": 3, "ttft_ms": 10, "latency_ms": 1010, "tokens_per_s": 3.0}
    assert (done.tokens, done.attempt, done.at_ms) == (3, 1, 1010)


@pytest.mark.parametrize(("pieces", "at_ms"), [([], 50), ([Token("a")], 50), ([Token("a"), Token("b")], 10)])
def test_there_is_no_rate_where_there_is_nothing_to_measure(pieces: list[Piece], at_ms: int) -> None:
    attempt = _attempt()
    _events(attempt, pieces)
    assert "tokens_per_s" not in attempt.timings(at_ms)
