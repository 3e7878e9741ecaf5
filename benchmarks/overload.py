"""`python -m benchmarks.overload`: ten times more jobs than there is room for, a minute long, beside answers that run.

Room is what the worker's slots can end: jobs of one to eleven seconds, six on the average. Asked for is ten times as
many a second, by clients who do not wait for each other, so that whoever is refused late shows. Three things must hold,
and the program ends with 1 where one does not: every job that was accepted ends whole; every other POST is refused with
429 or 503 within 50 ms; the answers that ran before the flood come no later than twice as late at p99 as without it.
For comparison the same answers run beside as many jobs as there is room for, too: that much later they are for the work
that is done, and the rest is the refusals'.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httptools
import uvloop

from benchmarks import proc
from benchmarks.machine import described
from benchmarks.marks import put
from benchmarks.processes import Tailrace
from benchmarks.samples import percentiles_ms
from benchmarks.table import markdown
from benchmarks.tools import Load, Route, fake, fake_provider

SLOTS, RUNNING = 60, 20
"""Of the worker, and how many of them the answers have that run all the time."""
PER_S = 20
JOB_TOKENS = range(20, 240, 20)
"""Jobs of one length, begun together, would free all slots at one moment and begin together again, for ever."""
JOB_S = sum(JOB_TOKENS) / len(JOB_TOKENS) / PER_S
ROOM_PER_S = (SLOTS - RUNNING) / JOB_S
QUEUE = 4 * SLOTS
"""Open jobs, beyond which a POST is refused: what waits longest waits for some seconds."""
TIMES = 10
ALONE_S, FULL_S, FLOOD_S, EDGE_S = 20.0, 30.0, 60.0, 2.0
REFUSED_MS, LATER = 50.0, 2.0
END_S = 60.0
"""For the accepted jobs to end after the flood."""
CONNECTIONS = 64
CALM, TRIES = 0.01, 5
"""A phase in which the host took more of the machine than this is measured again, so often in all."""
MARK = "make overload"


@dataclass
class Answers:
    """What the flood's POSTs got. Times in ms, by clients that share a process."""

    accepted: list[str] = field(default_factory=list)
    accepted_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    without_hint: int = 0
    """Refusals without Retry-After."""

    def add(self, status: int, headers: dict[bytes, bytes], body: bytes, ms: float) -> None:
        """One answer."""
        self.statuses[status] += 1
        if status == 202:
            self.accepted.append(str(json.loads(body)["id"]))
            self.accepted_ms.append(ms)
        else:
            self.refused_ms.append(ms)
            self.without_hint += b"retry-after" not in headers


class Client(asyncio.Protocol):
    """One connection that asks, and is free again once it was answered."""

    def __init__(self, free: "asyncio.Queue[Client]", answers: Answers) -> None:
        self._free = free
        self._answers = answers
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods alone
        self._free.put_nowait(self)

    def ask(self, request: bytes) -> None:
        """Send a request."""
        self._asked_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Some of an answer."""
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers."""
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """Some of its body."""
        self._body += body

    def on_message_complete(self) -> None:
        """All of it."""
        ms = (time.perf_counter() - self._asked_s) * 1e3
        self._answers.add(self._parser.get_status_code(), self._headers, self._body, ms)
        self._headers, self._body = {}, b""
        self._parser = httptools.HttpResponseParser(self)
        self._free.put_nowait(self)


async def flood(port: int, requests: list[bytes], per_s: float, seconds: float) -> Answers:
    """`per_s` POSTs a second, evenly, on whichever connection is free. TimeoutError where none gets free for 10 s."""
    chance = random.Random(1)
    loop = asyncio.get_running_loop()
    free: asyncio.Queue[Client] = asyncio.Queue()
    answers = Answers()
    clients = [
        (await loop.create_connection(lambda: Client(free, answers), "127.0.0.1", port))[0] for _ in range(CONNECTIONS)
    ]
    begun_s = loop.time()
    for number in range(round(per_s * seconds)):
        await asyncio.sleep(max(0.0, begun_s + number / per_s - loop.time()))
        async with asyncio.timeout(10):
            (await free.get()).ask(chance.choice(requests))
    await asyncio.sleep(max(0.0, begun_s + seconds - loop.time()))
    async with asyncio.timeout(10):
        for _ in range(CONNECTIONS):
            await free.get()
    for client in clients:
        client.close()
    return answers


def post(route: Route) -> bytes:
    """The bytes of the route's POST."""
    body = json.dumps(route.body).encode()
    head = f"POST {route.post} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def model(tokens: int) -> str:
    """An answer of so many tokens at PER_S, each at some moment of its turn: in step, answers would wait for each other
    in every turn or in none, as their first moments fell."""
    return fake(tokens, 1_000_000 // PER_S, jitter_percent=100)


def running(system: Tailrace, seconds: float) -> Load:
    """The answers that run all the time, measured between their first and last moments."""
    tokens = round((seconds + 2 * EDGE_S) * PER_S)
    route = system.route(model(tokens), one_request=True)
    times = {"ramp_s": 1.0, "from_s": EDGE_S, "to_s": EDGE_S + seconds}
    return Load("streams", route, tokens=tokens, streams=RUNNING, timeout_s=seconds + 60, **times)


def how_they_ended(system: Tailrace, jobs: list[str]) -> Counter[str]:
    """Status → how many of the accepted jobs have it, once none is open or after END_S."""
    until_s = time.monotonic() + END_S
    while system.store.zcard("tailrace:open") and time.monotonic() < until_s:
        time.sleep(0.2)
    shown = (json.loads(system.call("GET", f"/jobs/{job}")) for job in jobs)
    ends: Counter[str] = Counter()
    for job in shown:
        numbers = [int(number) for number in re.findall(r"@(\d+):", job["text"])]
        whole = len(numbers) in JOB_TOKENS and f"/n={len(numbers)}/" in job["model"] and numbers == sorted(numbers)
        ends[job["status"] if whole else f"{job['status']} with {len(numbers)} tokens"] += 1
    return ends


@dataclass
class Phase:
    """The answers that run all the time, and what was asked for beside them."""

    lag: dict[str, Any]
    answers: Answers
    ends: Counter[str]
    before: proc.Reading
    after: proc.Reading

    @property
    def steal(self) -> float:
        """The share of the machine that its host took away meanwhile."""
        return proc.steal_share(self.before, self.after)


def phase(system: Tailrace, per_s: float, seconds: float) -> Phase:
    """Measure the answers that run all the time beside so many POSTs a second; until all jobs have ended."""
    load = running(system, seconds + EDGE_S)
    time.sleep(2 * EDGE_S)
    before = proc.read(system.roles())
    requests = [post(system.route(model(tokens))) for tokens in JOB_TOKENS]
    answers = uvloop.run(flood(system.port, requests, per_s, seconds))
    after = proc.read(system.roles())
    return Phase(load.result(), answers, how_they_ended(system, answers.accepted), before, after)


def calm_phase(system: Tailrace, per_s: float, seconds: float, tries: int) -> Phase:
    """The first of so many in which the host left the machine alone, or else the calmest. Jobs must have ended in each
    of them."""
    phases: list[Phase] = []
    while len(phases) < tries and all(each.steal > CALM for each in phases):
        phases.append(phase(system, per_s, seconds))
    calmest = min(phases, key=lambda each: each.steal)
    if len(phases) > 1:
        print(f"steal {', '.join(f'{each.steal:.1%}' for each in phases)}", file=sys.stderr)
    calmest.ends = sum((each.ends for each in phases), Counter[str]())
    return calmest


def measured(provider_port: int, tries: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """The table's rows, and what does not hold."""
    env = {"TAILRACE_SLOTS": str(SLOTS), "TAILRACE_MAX_QUEUED_JOBS": str(QUEUE)}
    system = Tailrace(provider_port, env=env)
    try:
        # What a process loads with its first answer is no answer's lag.
        Load("sequential", system.route(fake(20, 0), one_request=True), tokens=20, timeout_s=20, repeat=9).result()
        alone = calm_phase(system, 0, ALONE_S, tries)
        full = calm_phase(system, ROOM_PER_S, FULL_S, tries)
        flooded = calm_phase(system, TIMES * ROOM_PER_S, FLOOD_S, tries)
    finally:
        system.stop()
    return _rows(alone, full, flooded), _faults(alone, full, flooded)


def _rows(alone: Phase, full: Phase, flooded: Phase) -> list[tuple[str, ...]]:
    answers, before, after = flooded.answers, flooded.before, flooded.after
    refused, accepted = percentiles_ms(answers.refused_ms or [0.0]), percentiles_ms(answers.accepted_ms or [0.0])
    seconds = after.at_s - before.at_s
    cores = ", ".join(f"{role} {cpu_s / seconds:.2f}" for role, cpu_s in proc.spent(before, after).items())
    statuses = ", ".join(f"{count:,} × {status}" for status, count in sorted(answers.statuses.items()))
    return [
        ("measure", "figure"),
        ("POSTs a second, and room for", f"{TIMES * ROOM_PER_S:.0f}, {ROOM_PER_S:.0f}"),
        ("answered", statuses),
        ("accepted jobs that ended", ", ".join(f"{count:,} {status}" for status, count in flooded.ends.items())),
        ("refused after, ms", _ranks(refused)),
        ("accepted after, ms", _ranks(accepted)),
        ("lag of running answers alone, ms", _lag(alone)),
        ("the same with all slots at work", f"{_lag(full)}; p99 {_later(alone, full):.2f} ×"),
        ("the same beside the flood", f"{_lag(flooded)}; p99 {_later(alone, flooded):.2f} ×"),
        ("cores", cores),
        ("steal in the three", ", ".join(f"{each.steal:.1%}" for each in (alone, full, flooded))),
    ]


def _ranks(found: dict[str, float]) -> str:
    return ", ".join(f"{name.removesuffix('_ms')} {value:.1f}" for name, value in found.items())


def _lag(found: Phase) -> str:
    return ", ".join(f"{rank} {found.lag['lag_us'][rank] / 1e3:.1f}" for rank in ("p50", "p99", "max"))


def _later(alone: Phase, other: Phase) -> float:
    return float(other.lag["lag_us"]["p99"]) / max(1.0, float(alone.lag["lag_us"]["p99"]))


def _faults(alone: Phase, full: Phase, flooded: Phase) -> list[str]:
    """What does not hold, a line each."""
    answers, later = flooded.answers, _later(alone, flooded)
    refusals = {status: count for status, count in answers.statuses.items() if status != 202}
    slowest_ms = max(answers.refused_ms, default=0.0)
    checks = [
        (set(full.ends) == {"done"}, f"with all slots at work, accepted jobs ended as {dict(full.ends)}"),
        (set(flooded.ends) == {"done"}, f"accepted jobs ended as {dict(flooded.ends)}"),
        (refusals and set(refusals) <= {429, 503}, f"answers {refusals}"),
        (not answers.without_hint, f"{answers.without_hint} refusals had no Retry-After"),
        (slowest_ms <= REFUSED_MS, f"a refusal took {slowest_ms:.0f} ms"),
        (later <= LATER, f"p99 lag rose {later:.2f} times"),
    ]
    for name, found in (("alone", alone), ("with all slots at work", full), ("beside the flood", flooded)):
        lag = found.lag
        whole = lag["finished"] == RUNNING and not (lag["gaps"] or lag["dups"] or lag["errors"])
        checks.append((whole, f"{name}: {lag}"))
        checks.append(
            (
                found.steal <= CALM,
                f"{name}: the host took {found.steal:.1%} of the machine, which makes its times worthless",
            )
        )
    return [what for holds, what in checks if not holds]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.overload", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--into", type=Path, metavar="FILE", help="put the table between this file's marks")
    parser.add_argument(
        "--tries", type=int, default=TRIES, metavar="N", help=f"measure what the host disturbs N times ({TRIES})"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or what was started would outlive us
    with contextlib.ExitStack() as stack:
        port, _process = stack.enter_context(fake_provider())
        rows, faults = measured(port, max(1, arguments.tries))
    text = "\n\n".join([described(), markdown(rows), *(f"Does not hold: {fault}." for fault in faults)])
    print(text)
    if arguments.into:
        put(text, arguments.into, MARK)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
