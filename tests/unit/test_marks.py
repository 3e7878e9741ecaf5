"""Marks: a batch that is noted with an upstream ends exactly where this one does."""

from hypothesis import given
from hypothesis import strategies as st

from shared.jobs import Upstream
from worker.marks import Marks

A, B = Upstream("a", 1), Upstream("b", 2)


def test_without_any_every_batch_is_as_long_as_it_may_be() -> None:
    marks = Marks()
    assert (marks.cut(3, 9), marks.due) == ((9, ""), False)


def test_a_batch_ends_where_its_upstream_does() -> None:
    marks = Marks()
    marks.set(4, A)
    marks.set(7, B)
    assert marks.cut(0, 6) == (4, A)
    assert marks.cut(0, 9) == (7, B)
    assert marks.cut(4, 6) == (6, "")


def test_a_new_generation_is_said_before_its_first_event_and_the_same_one_is_not() -> None:
    marks, due = Marks(), []
    for upstream in (A, Upstream("a", 5), B):
        marks.set(0, upstream)
        due.append(marks.due)
        assert marks.cut(0, 0) == (0, upstream)
        marks.noted(upstream)
    assert due == [True, False, True]


def test_a_generation_that_is_lost_is_said_too() -> None:
    marks = Marks()
    marks.set(2, A)
    marks.noted(A)
    marks.set(2, None)
    assert (marks.due, marks.cut(2, 2)) == (True, (2, "-"))
    marks.noted("-")
    assert (marks.due, marks.cut(2, 3)) == (False, (3, ""))


@given(st.lists(st.integers(1, 5), max_size=30), st.integers(1, 12), st.data())
def test_what_is_noted_always_covers_exactly_what_is_in_the_log(
    units: list[int], longest: int, data: st.DataObject
) -> None:
    marks, places = Marks(), {0: -1}
    for number, size in enumerate(units):
        place = max(places) + size
        marks.set(place, Upstream("u", number))
        places[place] = number
    acked, total = 0, max(places)
    while acked < total:
        end, upstream = marks.cut(acked, min(acked + longest, total))
        assert acked < end <= acked + longest
        if isinstance(upstream, Upstream):
            assert places[end] == upstream.position
        acked = data.draw(st.sampled_from([end, end, acked]))  # a lost reply: the same again


def test_a_loss_that_events_have_passed_is_noted_before_them() -> None:
    marks = Marks()
    marks.set(2, A)
    marks.noted(A)
    marks.set(2, None)
    assert marks.cut(2, 5) == (2, "-")
    marks.noted("-")
    assert marks.cut(2, 5) == (5, "")
