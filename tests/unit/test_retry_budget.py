"""The retry budget: never more than a share of a minute's first calls, or the floor, whatever comes in which order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.budget import WINDOW_S, RetryBudget
from worker.window import Window

FLOOR = 3


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


def _budget(clock: Clock, percent: float = 10) -> RetryBudget:
    return RetryBudget(percent, FLOOR, clock)


def _granted(budget: RetryBudget, wanted: int) -> int:
    return sum(budget.grant() for _ in range(wanted))


@pytest.mark.parametrize(("calls", "granted"), [(0, 3), (1, 3), (30, 3), (39, 3), (40, 4), (100, 10), (1000, 100)])
def test_a_tenth_of_the_first_calls_may_be_repeated_or_the_floor(calls: int, granted: int) -> None:
    budget = _budget(Clock())
    for _ in range(calls):
        budget.called()
    assert _granted(budget, 2000) == granted


def test_in_an_outage_the_provider_sees_a_tenth_more_calls_than_there_are_jobs() -> None:
    clock = Clock()
    budget = _budget(clock)
    seen = 0
    for _ in range(1000):
        budget.called()
        seen += 1 + _granted(budget, 2)
        clock.s += WINDOW_S / 2000
    assert 1050 < seen <= 1.1 * 1000 + FLOOR


def test_after_a_minute_of_rest_the_floor_is_there_again() -> None:
    clock = Clock()
    budget = _budget(clock)
    assert _granted(budget, 9) == FLOOR
    clock.s += WINDOW_S - 1
    assert _granted(budget, 9) == 0
    clock.s += 2
    assert _granted(budget, 9) == FLOOR


def test_calls_of_more_than_a_minute_ago_earn_nothing() -> None:
    clock = Clock()
    budget = _budget(clock)
    for _ in range(1000):
        budget.called()
    clock.s += WINDOW_S + 1
    assert _granted(budget, 99) == FLOOR


def test_no_share_and_no_floor_is_no_retry() -> None:
    budget = RetryBudget(0, 0, Clock())
    budget.called()
    assert not budget.grant()


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 30), st.integers(0, 5)), max_size=20))
def test_no_retry_is_granted_beyond_the_share_of_the_minute_before_it(steps: list[tuple[float, int, int]]) -> None:
    clock = Clock()
    budget = _budget(clock)
    calls: list[float] = []
    retries: list[float] = []
    for pause_s, firsts, wanted in steps:
        clock.s += pause_s
        for _ in range(firsts):
            budget.called()
        calls += [clock.s] * firsts
        granted = _granted(budget, wanted)
        retries += [clock.s] * granted
        # The window forgets by buckets of a second: it holds the last 59 s wholly and nothing beyond 60.
        lately = sum(at > clock.s - WINDOW_S + 1 for at in retries)
        assert not granted or lately <= max(FLOOR, 0.1 * sum(at > clock.s - WINDOW_S for at in calls))


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 1)), max_size=30))
def test_a_window_counts_what_is_young_and_keeps_few_buckets(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    window = Window(30, clock, buckets=30)
    seen: list[tuple[float, int]] = []
    for pause_s, kind in steps:
        clock.s += pause_s
        window.add(kind)
        seen.append((clock.s, kind))
        for each in (0, 1):
            ages = [clock.s - at for at, what in seen if what == each]
            assert sum(age < 29 for age in ages) <= window.count(each) <= sum(age < 30 for age in ages)
        assert len(window._buckets) <= 30
