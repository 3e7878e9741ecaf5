"""What a run says: the table of the targets with what qualifies its figures, and the exit status."""

from benchmarks.bench import Plan
from benchmarks.results import Results
from benchmarks.table import faults_of_ours, foreign_load, steal, targets_table
from benchmarks.targets import OURS, TARGETS, C, Judged, Target, judge


def judges(target: Target, plan: Plan) -> bool:
    """Whether the plan measures what a target is judged by."""
    return not plan.systems or target.baseline in ("", OURS, C, *plan.systems)


def judged(results: Results) -> list[Judged]:
    """The rows that the plan could fill."""
    rows = [target for target in TARGETS if target.question in results.questions and judges(target, results.plan)]
    return [judge(target, results.samples) for target in rows]


def report(results: Results) -> tuple[str, int]:
    """The text, and the exit status: 1 where a target of ours is missed or a run of ours had a fault."""
    rows = judged(results)
    minutes, seconds = divmod(round(results.elapsed_s), 60)
    lines = [f"{results.machine}; {minutes} min {seconds} s, {results.plan.rounds} rounds", ""]
    lines += [targets_table(rows, results.samples), ""] if rows else []
    lines += [steal(results.samples)]
    lines += [f"not measured: {name} ({reason})" for name, reason in results.missing.items()]
    lines += [f"broke: {name}, {reason}" for name, reason in results.broken]
    lines += [f"foreign load: {line}" for line in foreign_load(results.samples)]
    faults = [reason for name, reason in results.broken if name == OURS] + faults_of_ours(results.samples)
    lines += [f"FAULT: {fault}" for fault in faults]
    missed = [row for row in rows if row.verdict == "MISSED" or (row.verdict == "no figures" and row.target.required)]
    excepted = sum(row.verdict == "excepted" for row in rows)
    verdict = f"{len(rows) - len(missed) - excepted} of {len(rows)} targets reached"
    verdict += f", {excepted} within their recorded exception" if excepted else ""
    lines += [verdict + (f", {len(missed)} missed" if missed else "") + (", with faults" if faults else "")]
    return "\n".join(lines), 1 if missed or faults else 0
