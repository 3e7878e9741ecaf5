"""How long a plan takes: its turns, counted by asking the questions of a bench that starts nothing, times their length.

The lengths are those of a run on two shared cores; `python -m benchmarks` prints beside them what it took itself.
"""

from collections.abc import Callable

from benchmarks.bench import Bench, Plan, takes_part
from benchmarks.processes import Running
from benchmarks.questions import QUESTIONS, measurer
from benchmarks.samples import Sample

TURN_S: dict[str, dict[str, float]] = {
    "first_token": {"naive": 12, "fastapi-resumable": 3.5, "provider": 0.1, "*": 2},
    "lag_100": {"direct": 13, "fastapi-resumable": 15, "*": 10.5},
    "streams_1000": {"tailrace": 28, "nchan": 28, "*": 32},
    "flood": {"*": 9},
    "fan_out": {"send_floor": 3.5, "*": 11},
    "replay_10k": {"*": 2.5},
    "resume_tail": {"*": 1.5},
    "cost_by_length": {"*": 6},
    "storm": {"*": 4},
    "idle_readers": {"*": 10},
    "pickup": {"*": 16},
    "fair": {"*": 22},
    "bytes_per_token": {"*": 26},
    "lag_by_streams": {"direct": 46, "*": 38},
    "tools": {"*": 16},
}
"""Question → system → seconds of a turn of a full run, restarts included; `*` stands for all others."""
QUICK_S: dict[str, dict[str, float]] = {
    "lag_100": {"tailrace": 5, "direct": 6.5},
    "streams_1000": {"tailrace": 31, "direct": 21},
    "flood": {"*": 6.5},
    "fan_out": {"tailrace": 7.5},
    "idle_readers": {"*": 4.5},
    "pickup": {"*": 5.5},
    "fair": {"*": 16},
    "bytes_per_token": {"*": 16},
}
"""The same of a quick run, where it differs."""
ONCE_S: dict[str, dict[str, float]] = {
    "first_token": {"*": 2},
    "lag_100": {"nchan": 1},
    "replay_10k": {"naive": 15, "*": 21},
    "resume_tail": {"*": 3},
    "cost_by_length": {"*": 5},
    "storm": {"*": 3},
}
"""What comes once, with the first turn: a system's start, or the long logs."""
QUICK_ONCE_S: dict[str, dict[str, float]] = {"resume_tail": {"*": 20}}


class Rehearsal(Bench):
    """A bench that starts nothing and counts the turns."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, {}, (0, 0))
        self.counted: dict[str, int] = {}
        """System → turns."""

    def each(
        self, names: tuple[str, ...], ask: Callable[[Running, int], Sample], *, fresh: bool = False, rounds: int = 50
    ) -> list[Sample]:
        """No samples; `ask` is not called."""
        for number in range(min(rounds, self.plan.rounds)):
            for name in names:
                if self.wants(name) and takes_part(name, number):
                    self.counted[name] = self.counted.get(name, 0) + 1
        return []


def expected_s(name: str, plan: Plan) -> float:
    """Seconds that a question takes in all, its systems' starts included."""
    rehearsal = Rehearsal(plan)
    measurer(name)(rehearsal)
    lengths = {**TURN_S[name], **(QUICK_S.get(name, {}) if plan.quick else {})}
    once = {**ONCE_S.get(name, {}), **(QUICK_ONCE_S.get(name, {}) if plan.quick else {})}
    return sum(
        turns * lengths.get(system, lengths.get("*", 0.0)) + once.get(system, once.get("*", 0.0))
        for system, turns in rehearsal.counted.items()
    )


def listed(names: list[str], plan: Plan) -> str:
    """Each question with its first line and the seconds that the plan will take with it, and their sum."""
    rows = [(expected_s(name, plan), name) for name in names]
    lines = [
        f"{seconds:5.0f} s  {name:16} {(QUESTIONS[name].__doc__ or '').partition(chr(10))[0]}" for seconds, name in rows
    ]
    return "\n".join([*lines, f"{sum(seconds for seconds, _ in rows):5.0f} s  in all, with {plan.rounds} rounds"])
