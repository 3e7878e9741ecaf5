"""How long until a worker has a job: from the POST's answer to `start` in the log, idle and beside 150 running jobs.

Read by a blocked XREAD, at the moment at which any reader could have it.
"""

import contextlib
import http.client
import json
import random
import time
from functools import partial

from benchmarks.bench import Bench
from benchmarks.processes import Running, Tailrace
from benchmarks.samples import Sample, percentiles_ms
from benchmarks.targets import OURS
from benchmarks.tools import fake
from shared.jobs import JobKey
from shared.storage.keys import job_keys

QUESTION = "pickup"
RUNNING = 150
RUNNING_TOKENS_PER_S = 20
LONGEST_PAUSE_S = 0.02
"""Jobs come at random moments: a client that waits for one answer to send the next would lock onto a poll's phase."""
LONGEST_WAIT_MS = 5_000
"""What a job is counted with that was not begun until then."""
GUARD_S = 20.0


def measure(bench: Bench) -> list[Sample]:
    """Tailrace alone: the bounds are absolute."""
    return bench.each((OURS,), partial(_ask, bench))


def _ask(bench: Bench, running: Running, number: int) -> Sample:
    assert isinstance(running, Tailrace)
    count = 80 if bench.plan.quick else 300
    waits(running, 20)
    idle = waits(running, count)
    span_s = 4.0 + count * (LONGEST_PAUSE_S + 0.02)
    model = fake(round(span_s * RUNNING_TOKENS_PER_S), 1_000_000 // RUNNING_TOKENS_PER_S)
    jobs = [running.begin(model) for _ in range(RUNNING)]
    _all_speak(running, jobs)
    busy = waits(running, count)
    still = sum(not running.complete(job, 0) for job in jobs)
    for job in jobs:
        running.call("POST", f"/jobs/{job}/cancel")
    figures = {**percentiles_ms(idle), **percentiles_ms(busy, "busy_"), "running": float(still)}
    return Sample(QUESTION, running.name, number, figures)


def _all_speak(running: Tailrace, jobs: list[str]) -> None:
    """Wait until every one of `jobs` has a token: what is asked is what running jobs cost a new one, not 150 starts."""
    until = time.monotonic() + GUARD_S
    while time.monotonic() < until:
        pipe = running.store.pipeline(transaction=False)
        for job in jobs:
            pipe.xlen(job_keys(JobKey("default", job)).log)
        if min(pipe.execute()) > 2:  # queued, start, and more
            return
        time.sleep(0.05)


def waits(running: Tailrace, count: int) -> list[float]:
    """Milliseconds of so many one-token jobs, one after another; of fewer where they do not come to their turn."""
    until = time.monotonic() + GUARD_S
    body = json.dumps({"provider": "scripted", "model": "demo", "prompt": "x", "params": {"tokens": 1}})
    found: list[float] = []
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)) as client:
        while len(found) < count and time.monotonic() < until:
            client.request("POST", "/jobs", body, {"content-type": "application/json"})
            answer = client.getresponse()
            said = answer.read()
            answered = time.perf_counter()
            log = job_keys(JobKey("default", json.loads(said)["id"])).log
            running.store.xread({log: "0-1"}, count=1, block=LONGEST_WAIT_MS)
            found.append((time.perf_counter() - answered) * 1000)
            time.sleep(random.uniform(0, LONGEST_PAUSE_S))
    return found
