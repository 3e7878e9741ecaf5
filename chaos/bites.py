"""Whether the faults bit: a chaos run that hits nothing proves nothing, and fails."""

from dataclasses import dataclass

from chaos.plan import FAULTS
from chaos.run import Outcome

_SHARE = {"wakes_dropped": 0.3, "worker_drain": 0.4, "api_kill": 0.4, "api_drain": 0.4, "api_freeze": 0.3}
"""Of the times that a fault struck, how many must have hit something; half of them where nothing is said."""


@dataclass(frozen=True)
class Bite:
    """What was wanted, and what there was."""

    what: str
    count: int
    need: int

    @property
    def enough(self) -> bool:
        """Whether it bit."""
        return self.count >= self.need


def bites(outcome: Outcome) -> list[Bite]:
    """Every demand; they scale with the rounds."""
    demands = [
        Bite(f"{fault} that hit something", outcome.bitten[fault], int(outcome.times[fault] * _SHARE.get(fault, 0.5)))
        for fault in FAULTS
        if outcome.clocks or not fault.startswith("clock_")
    ]
    resumes = sum(outcome.load.resumes.values()) if outcome.load is not None else 0
    kills, outages = outcome.hits["worker_kill"], outcome.bitten["store_kill"] + outcome.bitten["store_freeze"]
    return [
        *demands,
        Bite("running jobs whose worker was killed", kills, outcome.times["worker_kill"]),
        Bite("appends that were fenced", outcome.fenced, outcome.bitten["worker_freeze"] // 2),
        Bite("running jobs handed over by a drain", outcome.handed_over, outcome.times["worker_drain"] // 2),
        Bite(
            "outages of the store under running jobs",
            outages,
            (outcome.times["store_kill"] + outcome.times["store_freeze"]) // 2,
        ),
        Bite("re-runs measured", len(outcome.reruns.all), outcome.times["worker_kill"] // 2),
        Bite("resumes of readers", resumes, outcome.rounds),
    ]
