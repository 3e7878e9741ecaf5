"""How the benchmark judges: ratios within a round, what noise may explain, and what is recorded as out of reach."""

import math
from pathlib import Path

import pytest

from benchmarks.bench import Plan
from benchmarks.plots import plots
from benchmarks.questions import QUESTIONS
from benchmarks.report import judges, report
from benchmarks.results import Results, kept
from benchmarks.samples import Sample, Turn
from benchmarks.schedule import expected_s
from benchmarks.targets import TARGETS, RecordedException, Target, judge

ROOT = Path(__file__).parents[2]


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


KNOWN = RecordedException(0.9, "the kernel", "docs/decisions/0000.md")
EXCEPTED = Target("q", "half", "ms", "ms", 0.5, "direct", exception=KNOWN)


def run(ours: list[float], targets: tuple[Target, ...], monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """What a run with these figures of ours against 10 ms of the direct path says, and its exit status."""
    monkeypatch.setattr("benchmarks.report.TARGETS", targets)
    found = samples(tailrace=ours, direct=[10] * len(ours))
    return report(Results("a machine", Plan(), ["q"], found))


@pytest.mark.parametrize(
    ("ours", "verdict", "status"),
    [
        ([4, 5], "ok", 0),
        ([8, 8.5], "excepted", 0),
        ([8, 9.5, 9.9], "noise", 0),
        ([9.5, 9.9], "MISSED", 1),
    ],
)
def test_the_exit_status_follows_the_recorded_bound_and_its_noise(
    ours: list[float], verdict: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judge(EXCEPTED, samples(tailrace=ours, direct=[10] * len(ours))).verdict == verdict
    assert run(ours, (EXCEPTED,), monkeypatch)[1] == status


def test_the_table_shows_the_target_beside_its_exception_and_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = run([8], (EXCEPTED,), monkeypatch)
    (row,) = [line for line in text.splitlines() if line.startswith("| half")]
    assert "≤ 0.5 ×; exception ≤ 0.9 × (docs/decisions/0000.md) | excepted" in row
    assert "exception: half: the kernel" in text
    assert "0 of 1 targets reached, 1 within their recorded exception" in text


def test_every_recorded_exception_has_its_page() -> None:
    pages = [target.exception.page for target in TARGETS if target.exception]
    assert [page for page in pages if not (ROOT / page).is_file()] == []


def test_a_fault_of_ours_fails_a_run_whose_targets_are_all_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.report.TARGETS", (HALF,))
    found = [Sample("q", "tailrace", 0, {"ms": 1.0}, {"gaps": 1}), Sample("q", "direct", 0, {"ms": 10.0}, {"gaps": 9})]
    text, status = report(Results("a machine", Plan(), ["q"], found))
    assert status == 1
    assert "FAULT: q, round 1: 1 gaps" in text


def test_a_table_tells_how_much_of_the_machine_the_host_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.report.TARGETS", (HALF,))
    found = [Sample("q", "tailrace", number, {"ms": 1.0, "steal": steal}) for number, steal in enumerate((0.02, 0.4))]
    text, _ = report(Results("a machine", Plan(), ["q"], found))
    assert "| 21 (2–40) % |" in text
    assert "More than 10% in the rounds: q 2." in text


def test_a_kept_run_says_what_it_said_when_it_was_measured(tmp_path: Path) -> None:
    found = samples(tailrace=[1, math.inf], direct=[4, 5])
    results = Results("a machine", Plan(2, True, ("direct",)), ["q"], found, {"q": [Turn("direct", 1.5)]})
    results.broken = [("direct", "round 1: it fell")]
    results.keep(tmp_path / "last.json")
    assert kept(tmp_path / "last.json") == results


def test_every_question_knows_how_long_it_takes() -> None:
    assert [name for name in QUESTIONS if expected_s(name, Plan()) <= 0] == []
    assert sum(expected_s(name, Plan()) for name in QUESTIONS) <= 40 * 60
    quick = Plan(3, True, ("direct", "send_floor", "tailrace"))
    judged = {target.question for target in TARGETS if judges(target, quick)}
    assert sum(expected_s(name, quick) for name in judged) <= 5 * 60


def test_a_plot_shows_no_figure_that_never_came() -> None:
    found = [Sample("lag_by_streams", "tailrace", 0, {"p99_ms of 10": 3.0, "p99_ms of 50": math.inf})]
    found += [Sample("streams_1000", "tailrace", 0, {"p99_ms": 60.0})]
    (svg,) = plots(found).values()
    assert svg.count("<circle") == 2
    assert "inf" not in svg
