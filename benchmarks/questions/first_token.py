"""How long until one reader has the first token of an answer that the provider begins at once.

One request for every system: the POST's own answer is the stream (`Accept: text/event-stream` with Tailrace).
"""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.processes import Running
from benchmarks.samples import Sample
from benchmarks.tools import fake

QUESTION = "first_token"
SYSTEMS = ("tailrace", "direct", "resumable", "naive", "fastapi-resumable", "provider")
SLOW = {"naive": 20, "fastapi-resumable": 40}
"""Fewer answers of systems that poll: tens and hundreds of milliseconds each."""
TOKENS = 20


def measure(bench: Bench) -> list[Sample]:
    """Sequential answers on an idle system; `provider` is the load tool on the provider itself."""
    return bench.each(SYSTEMS, partial(_ask, bench))


def _ask(bench: Bench, running: Running, number: int) -> Sample:
    repeat = SLOW.get(running.name, 100 if bench.plan.quick else 150)
    route = running.route(fake(TOKENS, 0), one_request=True)
    bench.load(running, "sequential", route, tokens=TOKENS, timeout_s=30, repeat=repeat // 10)  # warm up
    run = bench.load(running, "sequential", route, tokens=TOKENS, timeout_s=60, repeat=repeat)
    figures = {"p50_ms": run.ms("first", "p50"), "p99_ms": run.ms("first", "p99"), "whole_ms": run.ms("last", "p50")}
    figures |= {f"{role}_us_per_answer": cpu_s / repeat * 1e6 for role, cpu_s in run.cpu_s.items()}
    return Sample(QUESTION, running.name, number, figures, run.faults)
