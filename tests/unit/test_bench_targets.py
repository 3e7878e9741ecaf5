"""How the benchmark judges: ratios within a round, what noise may explain, and what is recorded as out of reach."""

import pytest

from benchmarks.samples import Sample
from benchmarks.targets import RecordedException, Target, judge


def samples(**systems: list[float]) -> list[Sample]:
    """One figure a round for each system."""
    return [
        Sample("q", system, number, {"ms": value})
        for system, values in systems.items()
        for number, value in enumerate(values)
    ]


HALF = Target("q", "half of the direct path", "ms", "ms", 0.5, "direct")


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [([1, 4, 10], "ok"), ([4, 40, 100], "noise"), ([8, 40, 400], "MISSED"), ([], "no figures")],
)
def test_a_target_is_missed_only_where_no_round_reaches_it(ours: list[float], verdict: str) -> None:
    assert judge(HALF, samples(tailrace=ours, direct=[10, 50, 100])).verdict == verdict


def test_ratios_are_taken_within_a_round_so_that_a_slow_machine_is_slow_for_both() -> None:
    judged = judge(HALF, samples(tailrace=[1, 100], direct=[4, 400]))
    assert judged.value is not None
    assert (judged.value.low, judged.value.high) == (0.25, 0.25)


def test_what_is_nobodys_own_is_taken_off_both() -> None:
    target = Target("q", "over the provider's own", "ms", "ms", 0.5, "direct", less="provider")
    judged = judge(target, samples(tailrace=[6], direct=[10], provider=[2]))
    assert judged.value is not None
    assert judged.value.median == 0.5


def test_more_is_better_where_it_is_said_so() -> None:
    target = Target("q", "tokens", "ms", "tok/s", 12, "direct", sense="at least")
    assert judge(target, samples(tailrace=[13, 130], direct=[1, 10])).verdict == "ok"
    assert judge(target, samples(tailrace=[11, 13], direct=[1, 1])).verdict == "ok"
    assert judge(target, samples(tailrace=[9, 11], direct=[1, 1])).verdict == "MISSED"


def test_a_recorded_exception_holds_in_place_of_the_target() -> None:
    known = RecordedException(0.9, "the kernel", "docs/decisions/0000.md")
    target = Target("q", "half", "ms", "ms", 0.5, "direct", exception=known)
    assert judge(target, samples(tailrace=[8], direct=[10])).verdict == "ok"
    assert judge(target, samples(tailrace=[10], direct=[10])).verdict == "MISSED"
