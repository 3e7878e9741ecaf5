"""The table at the end of a run."""

from collections.abc import Iterable

from chaos.bites import bites
from chaos.measure import spread
from chaos.plan import FAULTS
from chaos.run import Outcome


def table(outcome: Outcome) -> str:
    """Everything that a run has to say, as lines."""
    return "\n".join([*_faults(outcome), "", *_jobs(outcome), "", *_readers(outcome), "", *_verdict(outcome)])


def _faults(outcome: Outcome) -> Iterable[str]:
    yield f"{'fault':<16}{'times':>7}{'bit':>7}{'hits':>7}"
    for fault in FAULTS:
        if fault.startswith("clock_") and not outcome.clocks:
            yield f"{fault:<16}  not done: libfaketime is not here"
        else:
            yield f"{fault:<16}{outcome.times[fault]:>7}{outcome.bitten[fault]:>7}{outcome.hits[fault]:>7}"


def _jobs(outcome: Outcome) -> Iterable[str]:
    load = outcome.load
    assert load is not None
    yield f"{'jobs by end':<40}{sum(load.ends.values()):>7}"
    for end, count in sorted(load.ends.items()):
        yield f"  {end:<38}{count:>7}"
    yield f"  {'POSTs without a key that got no answer':<38}{load.unanswered:>7}"


def _readers(outcome: Outcome) -> Iterable[str]:
    load = outcome.load
    assert load is not None
    yield f"{'readers':<24}{'times':>7}{'events':>9}{'resumes':>9}"
    for kind in sorted(load.kinds):
        yield f"  {kind:<22}{load.kinds[kind]:>7}{load.events[kind]:>9}{load.resumes[kind]:>9}"
    counts = (load.kinds.total(), load.events.total(), load.resumes.total())
    yield f"  {'all':<22}{counts[0]:>7}{counts[1]:>9}{counts[2]:>9}"


def _verdict(outcome: Outcome) -> Iterable[str]:
    yield f"kill to re-run, undisturbed  {spread(outcome.reruns.calm)}"
    yield f"kill to re-run, all          {spread(outcome.reruns.all)}"
    for bite in bites(outcome):
        if not bite.enough:
            yield f"TOO TAME: {bite.what}: {bite.count} of at least {bite.need}"
    yield f"fenced appends {outcome.fenced}, jobs handed over by drains {outcome.handed_over}"
    yield f"{outcome.rounds} rounds of seed {outcome.seed} in {outcome.took_s:.0f} s"
    yield f"violations: {len(outcome.findings.lines)}"
