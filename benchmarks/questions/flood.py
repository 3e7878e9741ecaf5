"""How many tokens a second go through when the provider has no pace: 50 streams, each replaced when it ends."""

from functools import partial

from benchmarks.bench import Bench, Run
from benchmarks.paced import figures
from benchmarks.processes import Running
from benchmarks.samples import Sample
from benchmarks.tools import fake

QUESTION = "flood"
SYSTEMS = ("tailrace", "direct", "resumable")
STREAMS = 50
TOKENS = 1000


def measure(bench: Bench) -> list[Sample]:
    """Tokens read within some seconds. What is still open behind them is cut off and no fault."""
    return bench.each(SYSTEMS, partial(_ask, bench))


def _ask(bench: Bench, running: Running, number: int) -> Sample:
    run = flooded(bench, running)
    faults = {name: count for name, count in run.faults.items() if name in ("gaps", "dups")}
    return Sample(QUESTION, running.name, number, figures(run), faults)


def flooded(bench: Bench, running: Running) -> Run:
    """One run."""
    to_s = 3.5 if bench.plan.quick else 6.0
    options = {"streams": STREAMS, "ramp_s": 0.2, "from_s": 1.5, "to_s": to_s, "again": True}
    route = running.route(fake(TOKENS, 0), one_request=True)
    return bench.load(running, "streams", route, tokens=TOKENS, timeout_s=to_s + 0.5, **options)
