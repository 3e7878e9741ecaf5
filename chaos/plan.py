"""The plan of a run: which faults strike, which jobs come, who reads them. A pure function of the seed."""

import random
from dataclasses import dataclass
from typing import Any, Literal

OnInterrupt = Literal["restart", "continue", "fail"]

FAULTS: dict[str, int] = {
    "worker_kill": 22,
    "worker_freeze": 10,
    "worker_drain": 10,
    "api_kill": 10,
    "api_freeze": 4,
    "api_drain": 7,
    "readers_reset": 7,
    "store_reset": 7,
    "store_kill": 8,
    "store_freeze": 3,
    "wakes_dropped": 6,
    "all_killed": 3,
    "clock_api": 2,
    "clock_worker": 2,
    "clock_store": 4,
}
"""What can happen in a round, and how often of the sum of all weights."""
DIALECTS = {"native": 10, "exact": 8, "chat": 5, "chat-meta": 2, "langchain": 2, "client": 5}
MANNERS = {"steady": 8, "hopping": 6, "slow": 3, "vanishing": 4, "late": 4, "now": 3}
SIZES = {"short": 10, "long": 16, "burst": 2, "flood": 1}
"""A flood is an answer of thousands of tokens at once: more than the buffers between a node and a slow reader hold."""
WIRE_FAULTS = ("drop:9:1", "error:14:1", "end:6:1", "429:0:1", "500:0:1", "drop:0:1")


@dataclass(frozen=True)
class ReaderPlan:
    """One reader. `dialect` `client`: the client library, which also makes the job. `appetite`: frames until it breaks
    off, where its manner is to do so. `node`: the API node it begins at."""

    dialect: str
    manner: str
    node: int
    late_s: float
    appetite: int
    back_s: float | None
    """How long a vanishing reader stays away; None: for ever."""


@dataclass(frozen=True)
class JobPlan:
    """One job. `posts` 0: one POST without a key; else so many at once with the same Idempotency-Key."""

    name: str
    at_s: float
    provider: str
    prompt: str
    params: dict[str, Any]
    on_interrupt: OnInterrupt
    posts: int
    readers: tuple[ReaderPlan, ...]
    cancel_s: float | None = None
    delete_s: float | None = None

    @property
    def body(self) -> dict[str, Any]:
        """The body of its POST."""
        return {
            "provider": self.provider,
            "model": "chaos",
            "prompt": self.prompt,
            "params": self.params,
            "on_interrupt": self.on_interrupt,
            "metadata": {"name": self.name},
        }


@dataclass(frozen=True)
class Round:
    """One fault, and the jobs that arrive meanwhile. `pick` in [0, 1) chooses the victim among those that there are."""

    number: int
    fault: str
    pick: float
    hold_s: float
    """How long what was broken stays so, where the fault has no length of its own."""
    offset_s: float
    """A clock's step: what it shows afterwards, against the true time."""
    rest_s: float
    patient: bool
    """Whether the next fault waits for this one's consequences."""
    jobs: tuple[JobPlan, ...]


def make_plan(seed: int, rounds: int, only: frozenset[str] = frozenset()) -> list[Round]:
    """The same arguments make the same plan. `only`: the faults to draw from, all where it is empty."""
    weights = {fault: weight for fault, weight in FAULTS.items() if not only or fault in only}
    return [_round(random.Random(f"{seed}/{number}"), number, weights) for number in range(rounds)]


def _draw(chance: random.Random, weights: dict[str, int]) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]


def _round(chance: random.Random, number: int, weights: dict[str, int]) -> Round:
    fault = _draw(chance, weights)
    jobs: list[JobPlan] = []
    for _ in range(chance.randint(3, 6)):
        size = _draw(chance, SIZES)
        at_s = round(chance.uniform(0, 5), 2)
        for _ in range(6 if size == "burst" else 1):
            jobs.append(_job(chance, f"r{number}-j{len(jobs)}", size, at_s))
    return Round(
        number=number,
        fault=fault,
        pick=chance.random(),
        hold_s=round(chance.uniform(0.1, 1.2), 2),
        offset_s=chance.choice((-4.0, -2.5, -1.5, 0.0, 1.5, 2.5, 4.0)),
        rest_s=round(chance.uniform(0.1, 0.8), 2),
        patient=chance.random() < 0.7,
        jobs=tuple(jobs),
    )


def _job(chance: random.Random, name: str, size: str, at_s: float) -> JobPlan:
    posts = chance.choice((0, 0, 1, 2, 3))
    provider = chance.choice(("scripted",) * 7 + ("openai",) * 2 + ("anthropic",))
    if size == "flood":
        tokens, rate = chance.randint(2000, 4000), 2000
    elif size == "long":
        tokens, rate = chance.randint(90, 200), chance.choice((25, 30, 40))
    else:
        tokens, rate = chance.randint(3, 25), chance.choice((0, 60))
    prompt, params = f"nonce:{name}.{chance.randint(0, 10**9)}", {}
    if provider == "scripted":
        params = {"tokens": tokens, "tokens_per_s": rate, "seed": chance.randint(0, 10**9)}
    else:
        prompt += f" tokens:{tokens} rate:{rate or 200}"
        if chance.random() < 0.2:
            prompt += f" fault:{chance.choice(WIRE_FAULTS)}"
    life_s = tokens / rate if rate else 0.2
    return JobPlan(
        name=name,
        at_s=at_s,
        provider=provider,
        prompt=prompt,
        params=params,
        on_interrupt=chance.choice(("restart", "restart", "restart", "continue", "continue", "fail")),
        posts=posts,
        readers=tuple(_reader(chance, life_s) for _ in range(chance.choice((0, 1, 2, 2, 3, 4)))),
        cancel_s=round(chance.uniform(0, life_s * 1.2), 2) if chance.random() < 0.12 else None,
        delete_s=round(chance.uniform(0, life_s * 1.5), 2) if chance.random() < 0.06 else None,
    )


def _reader(chance: random.Random, life_s: float) -> ReaderPlan:
    dialect = _draw(chance, DIALECTS)
    manner = _draw(chance, MANNERS)
    if dialect == "client":
        manner = chance.choice(("steady", "hopping"))
    if manner == "now" and dialect not in ("native", "exact"):
        manner = "steady"
    return ReaderPlan(
        dialect=dialect,
        manner=manner,
        node=chance.randint(0, 9),
        late_s=round(chance.uniform(0, life_s * 1.5), 2) if manner in ("late", "now") else 0.0,
        appetite=chance.randint(1, 40),
        back_s=round(chance.uniform(0.2, 3.0), 2) if chance.random() < 0.5 else None,
    )
