"""`python -m benchmarks`: asks the questions, prints the table, and ends with 1 where a target was missed.

Every figure is a median over rounds in which the systems took turns, so that ratios hold on a noisy machine. `--quick`
judges against the direct path and the C floor alone. `--systems tailrace` measures Tailrace without any baseline, with
the CPU of each of its processes: for the profiler's eye, nothing is judged against a baseline then.
"""

import argparse
import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.bench import Bench, Plan
from benchmarks.machine import described
from benchmarks.peers import starters
from benchmarks.questions import QUESTIONS, measurer
from benchmarks.samples import Sample
from benchmarks.table import faults_of_ours, foreign_load, systems_table, targets_table
from benchmarks.targets import OURS, QUICK_BASELINES, TARGETS, C, Judged, Target, judge
from benchmarks.tools import fake_provider


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shorter and fewer runs, against D and C alone")
    parser.add_argument("--only", nargs="+", choices=list(QUESTIONS), metavar="NAME", help="only these questions")
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="only these systems")
    parser.add_argument("--rounds", type=int, help="rounds of each question (default 5, quick 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every sample there, for benchmarks.plots")
    parser.add_argument("--list", action="store_true", help="list the questions and end")
    return parser.parse_args()


def _plan(arguments: argparse.Namespace) -> Plan:
    rounds = arguments.rounds or (3 if arguments.quick else 5)
    quick_systems = tuple(sorted(QUICK_BASELINES - {""})) if arguments.quick else ()
    return Plan(max(1, min(rounds, 50)), arguments.quick, tuple(arguments.systems or quick_systems))


def _questions(arguments: argparse.Namespace, plan: Plan) -> list[str]:
    """Those asked for; of `--quick`, those that something is judged by."""
    judged = {target.question for target in TARGETS if _judges(target, plan)}
    return arguments.only or [name for name in QUESTIONS if name in judged or not arguments.quick]


def _asked(bench: Bench, questions: list[str]) -> list[Sample]:
    samples: list[Sample] = []
    for name in questions:
        began = time.monotonic()
        print(f"… {name}", file=sys.stderr, flush=True)
        found = measurer(name)(bench)
        samples += found
        print(f"{systems_table(found, name)}\n  [{time.monotonic() - began:.0f} s]\n", flush=True)
    return samples


def _judged(samples: list[Sample], plan: Plan, questions: list[str]) -> list[Judged]:
    """The rows that this plan could fill."""
    return [judge(target, samples) for target in TARGETS if target.question in questions and _judges(target, plan)]


def _judges(target: Target, plan: Plan) -> bool:
    return not plan.systems or target.baseline in ("", OURS, C, *plan.systems)


def main() -> int:
    """The command line."""
    arguments = _arguments()
    if arguments.list:
        for name, module in QUESTIONS.items():
            print(f"{name:16} {(module.__doc__ or '').partition(chr(10))[0]}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or what was started would outlive us
    plan = _plan(arguments)
    questions = _questions(arguments, plan)
    with fake_provider() as (port, process):
        bench = Bench(plan, starters(port), (port, process.pid))
        try:
            samples = _asked(bench, questions)
        finally:
            bench.close()
    if arguments.json:
        kept = {"machine": described(), "plan": asdict(plan), "samples": [asdict(sample) for sample in samples]}
        arguments.json.write_text(json.dumps(kept, indent=1))
    notes = [f"not measured: {name} ({reason})" for name, reason in bench.missing.items()]
    notes += [f"broke: {name}, {reason}" for name, reason in bench.broken]
    notes += [f"foreign load: {line}" for line in foreign_load(samples)]
    print(f"{described()}\n\n{targets_table(rows := _judged(samples, plan, questions))}", *notes, sep="\n")
    broken = [reason for name, reason in bench.broken if name == OURS]
    return _verdict(rows, broken + faults_of_ours(samples))


def _verdict(rows: list[Judged], faults: list[str]) -> int:
    """The exit status, said aloud."""
    for fault in faults:
        print(f"FAULT: {fault}")
    missed = [row for row in rows if row.verdict == "MISSED" or (row.verdict == "no figures" and row.target.required)]
    print(f"{len(rows) - len(missed)} of {len(rows)} targets reached" + (", with faults" if faults else ""))
    return 1 if missed or faults else 0


if __name__ == "__main__":
    sys.exit(main())
