"""Answers that a provider cuts, at every point and in every way: a cut answer is never taken for a whole one."""

from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from chaos.drills._judge import end_of, faults_of_log, none
from chaos.drills._stage import stage
from chaos.drills.frame import Drill, Figure, at_least, exactly
from chaos.drills.provider_faults import UNGATED, job, run
from shared.events import Done, Entry, Failed, Start
from shared.transcript import fold
from tests.support.provider_behaviour import answer
from tests.support.provider_server import ProviderServer

VENDORS = ("openai", "anthropic", "langchain")
FAULTS = ("drop", "end", "error", "garbage")
POLICIES = ("restart", "continue", "fail")
PIECES = 24
"""The local provider's answer has so many; a cut behind the last leaves out the end mark alone."""
SOON = {"TAILRACE_RETRY_BASE_S": "0.05"}
"""How long to wait before the next attempt is another drill's promise."""


class Case(NamedTuple):
    """One job and how its provider cuts it. `times` 0: at every call."""

    model: str
    vendor: str
    fault: str
    point: int
    times: int
    policy: str

    @property
    def prompt(self) -> str:
        """What asks the local provider for the cut."""
        return f"fault:{self.fault}:{self.point}:{self.times}"

    @property
    def named(self) -> str:
        """The model as the job names it."""
        return f"openai:{self.model}" if self.vendor == "langchain" else self.model


async def cut(count: int) -> Sequence[Figure]:
    """Every fault at `count` cut points (25 are all there are), at each provider, once and at every call."""
    points = sorted({round(step * PIECES / max(1, count - 1)) for step in range(count)})
    cases = [
        Case(f"m{number}", vendor, fault, point, times, POLICIES[number % len(POLICIES)])
        for number, (vendor, fault, point, times) in enumerate(product(VENDORS, FAULTS, points, (1, 0)))
    ]
    async with ProviderServer() as server, stage(workers=2, env={**server.environment, **UNGATED, **SOON}) as on:
        logs = await run(on, [job(c.vendor, c.named, c.prompt, on_interrupt=c.policy) for c in cases])
        calls = Counter(request.body["model"] for request in server.requests)
        ends = Counter(_end(logs[case.named]) for case in cases)
        again = [case for case in cases if sum(isinstance(entry.event, Start) for entry in logs[case.named]) > 1]
        false = [str(case) for case in cases if _end(logs[case.named]) == "done" and not _whole(case, logs[case.named])]
        return [
            exactly("cut points", len(points), min(count, PIECES + 1)),
            exactly("answers cut", sum(calls[case.model] > 0 for case in cases), len(cases)),
            at_least("of them begun anew in a further attempt", len(again), 0.2 * len(cases)),
            at_least("of them whole in the end", ends["done"], 0.2 * len(cases)),
            none("done with a text that is not whole", false),
            none(
                "done although every call was cut", [str(c) for c in cases if not c.times and _whole(c, logs[c.named])]
            ),
            exactly("done, or failed with a code of the provider's", ends["done"] + ends["failed"], len(cases)),
            none("faults in logs", [fault for log in logs.values() for fault in faults_of_log(log)]),
            none("processes that ended", on.died()),
        ]


def _end(log: list[Entry]) -> str:
    match end_of(log):
        case Done():
            return "done"
        case Failed(code=code) if code.startswith("provider_"):
            return "failed"
        case other:
            return str(other)


def _whole(case: Case, log: list[Entry]) -> bool:
    text = answer(case.model, [("user", case.prompt)])
    return isinstance(end_of(log), Done) and fold(entry.event for entry in log).text == text


DRILLS = (
    Drill("cut-points", (22,), "an answer that its provider cuts is begun anew or fails, and is never done", 25, cut),
)
