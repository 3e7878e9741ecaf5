"""`python -m benchmarks`: asks the questions, prints the table, and ends with 1 where a target was missed.

Every figure is a median over rounds in which the systems took turns, so that ratios hold on a noisy machine. `--quick`
judges against the direct path and the C floor alone. `--systems tailrace` measures Tailrace without any baseline, with
the CPU of each of its processes: for the profiler's eye, nothing is judged against a baseline then. Every sample is
kept in .bench/last.json (last-quick.json, last-part.json); `--from` makes table and plots of such a file without
measuring anything.
"""

import argparse
import signal
import sys
import time
from pathlib import Path

from benchmarks.bench import Bench, Plan
from benchmarks.machine import described
from benchmarks.marks import put
from benchmarks.peers import starters
from benchmarks.plots import PLOTTED, write_plots
from benchmarks.questions import QUESTIONS, measurer
from benchmarks.report import judges, report
from benchmarks.results import Results, kept, place
from benchmarks.schedule import expected_s, listed
from benchmarks.table import systems_table
from benchmarks.targets import QUICK_BASELINES, TARGETS
from benchmarks.tools import fake_provider


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shorter and fewer runs, against D and C alone")
    parser.add_argument("--only", nargs="+", choices=list(QUESTIONS), metavar="NAME", help="only these questions")
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="only these systems")
    parser.add_argument("--rounds", type=int, help="rounds of each question (default 5, quick 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where every sample is kept instead")
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="write the plots there, where all that they show was asked"
    )
    parser.add_argument("--into", type=Path, metavar="FILE", help="put the table between this page's marks")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="kept", help="measure nothing: show a kept run again")
    parser.add_argument("--list", action="store_true", help="list the questions with their expected seconds, and end")
    return parser.parse_args()


def _plan(arguments: argparse.Namespace) -> Plan:
    rounds = arguments.rounds or (3 if arguments.quick else 5)
    quick_systems = tuple(sorted(QUICK_BASELINES - {""})) if arguments.quick else ()
    return Plan(max(1, min(rounds, 50)), arguments.quick, tuple(arguments.systems or quick_systems))


def _questions(arguments: argparse.Namespace, plan: Plan) -> list[str]:
    """Those asked for; of `--quick`, those that something is judged by."""
    judged = {target.question for target in TARGETS if judges(target, plan)}
    return arguments.only or [name for name in QUESTIONS if name in judged or not arguments.quick]


def _measured(plan: Plan, questions: list[str], path: Path) -> Results:
    """Every question asked; what there is is kept behind each."""
    results = Results(described(), plan, questions)
    began = time.monotonic()
    with fake_provider() as (port, process):
        bench = Bench(plan, starters(port), (port, process.pid))
        try:
            for place, name in enumerate(questions):
                _progress(bench, questions[place:], began)
                bench.turns = results.turns[name] = []
                found = measurer(name)(bench)
                results.samples += found
                results.missing, results.broken = bench.missing, bench.broken
                results.elapsed_s = time.monotonic() - began
                results.keep(path)
                print(f"{systems_table(found, name)}\n", flush=True)
        finally:
            bench.close()
    return results


def _progress(bench: Bench, questions: list[str], began: float) -> None:
    """Say with each round where the run is, and what is expected of what lies ahead."""
    name, ahead = questions[0], sum(expected_s(other, bench.plan) for other in questions[1:])
    this = expected_s(name, bench.plan)

    def said(number: int, rounds: int) -> None:
        left = this * (1 - number / rounds) + ahead
        elapsed = time.monotonic() - began
        line = f"… {name}, round {number + 1} of {rounds}; {elapsed:.0f} s so far, about {left:.0f} s to go"
        print(line, file=sys.stderr, flush=True)

    bench.on_round = said


def main() -> int:
    """The command line."""
    arguments = _arguments()
    plan = _plan(arguments)
    questions = _questions(arguments, plan)
    if arguments.list:
        print(listed(questions, plan))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or what was started would outlive us
    if arguments.kept:
        results = kept(arguments.kept)
        print(*(systems_table(results.samples, name) + "\n" for name in results.questions), sep="\n")
    else:
        whole = not (arguments.only or arguments.systems)
        results = _measured(plan, questions, arguments.json or place(plan, whole=whole))
    text, status = report(results)
    print(text)
    if arguments.into:
        put(text, arguments.into, "make bench-quick" if results.plan.quick else "make bench")
    if arguments.plots and set(PLOTTED) <= set(results.questions):  # half a plot must not take a whole one's place
        print(*(f"written: {path}" for path in write_plots(results.samples, arguments.plots)), sep="\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
