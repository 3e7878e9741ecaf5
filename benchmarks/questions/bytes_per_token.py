"""What a finished answer costs in the store: bytes a token of 500 jobs of 200 tokens, words of four to five letters.

`log_bytes` is the log alone (MEMORY USAGE); `all_bytes` is all that the server's memory grew by, records, indices and
the queue's leavings with it. Both once every finished log is rewritten, and nothing shrinks any more.
"""

import time
from functools import partial

from benchmarks.bench import Bench
from benchmarks.processes import Running, Tailrace
from benchmarks.samples import Sample
from benchmarks.targets import OURS
from shared.storage import keys

QUESTION = "bytes_per_token"
TOKENS = 200
AT_ONCE = 125
"""Few enough that a worker keeps up with their pace: what waits for it would be stored together."""
SETTLED_S = 3.0
GUARD_S = 60.0
WORDS = (
    "The quick water runs on past mill and weir, down to where reeds grow, and it will not come back up. They say a "
    "river has no past, yet each stone keeps some sign of what went over it: a round edge, a dark line, the moss. "
)


def measure(bench: Bench) -> list[Sample]:
    """On a store that was started for this alone; once, for memory is not noisy."""
    return bench.each((OURS,), partial(_ask, 250 if bench.plan.quick else 500), fresh=True, rounds=1)


def _ask(count: int, running: Running, number: int) -> Sample:
    assert isinstance(running, Tailrace)
    _settled(running)
    before = _used(running)
    jobs: list[str] = []
    for first in range(0, count, AT_ONCE):
        jobs += [running.submit(_job(first + place)) for place in range(AT_ONCE)]
        _finished(running, jobs[first:])
    _rewritten(running)
    _settled(running)
    tokens = count * TOKENS
    figures = {
        "log_bytes": sum(running.log_bytes(job) for job in jobs) / tokens,
        "all_bytes": (_used(running) - before) / tokens,
        "text_bytes": sum(running.text_bytes(job) for job in jobs) / tokens,
    }
    return Sample(QUESTION, running.name, number, figures)


def _job(seed: int) -> dict[str, object]:
    params = {"tokens": TOKENS, "tokens_per_s": 100, "text": WORDS, "seed": seed}
    return {"provider": "scripted", "model": "demo", "prompt": "x", "params": params}


def _finished(running: Tailrace, jobs: list[str]) -> None:
    until = time.monotonic() + GUARD_S
    for job in jobs:
        while not running.complete(job, TOKENS):
            if time.monotonic() > until:
                raise RuntimeError(f"job {job} did not end within {GUARD_S} s")
            time.sleep(0.05)


def _rewritten(running: Tailrace) -> None:
    """Return once all jobs have left the list of open ones, and their logs that of those to be rewritten."""
    until = time.monotonic() + GUARD_S
    while running.store.exists(keys.OPEN, keys.ENDED):
        if time.monotonic() > until:
            raise RuntimeError(f"logs were not rewritten within {GUARD_S} s")
        time.sleep(0.1)


def _settled(running: Tailrace) -> None:
    """Return once the store's memory has not shrunk for a while."""
    least, since = _used(running), time.monotonic()
    until = since + GUARD_S
    while time.monotonic() - since < SETTLED_S and time.monotonic() < until:
        time.sleep(0.25)
        if (used := _used(running)) < least - 10_000:
            least, since = used, time.monotonic()


def _used(running: Tailrace) -> int:
    """The server's memory without what its clients and its append-only file have in flight."""
    stats = running.store.memory_stats()
    assert isinstance(stats, dict)
    return int(stats["dataset.bytes"])
