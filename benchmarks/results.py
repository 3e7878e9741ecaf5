"""What a run leaves behind: every sample with the machine and the plan, as JSON, so that tables can be made anew."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.bench import Plan
from benchmarks.samples import Sample, Turn

KEPT = Path(__file__).parents[1] / ".bench"


def place(plan: Plan, *, whole: bool) -> Path:
    """Where a run is kept unless it is said: a part of the questions or systems must not take a whole run's place."""
    if not whole:
        return KEPT / "last-part.json"
    return KEPT / ("last-quick.json" if plan.quick else "last.json")


@dataclass
class Results:
    """One run of `python -m benchmarks`. `turns`: question → who had its turn, and for how long."""

    machine: str
    plan: Plan
    questions: list[str]
    samples: list[Sample] = field(default_factory=list)
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    broken: list[tuple[str, str]] = field(default_factory=list)
    elapsed_s: float = 0.0

    def keep(self, path: Path) -> None:
        """Write all of it to a file; what was there is replaced only by the whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self), indent=1))
        fresh.replace(path)


def kept(path: Path) -> Results:
    """What `keep` wrote. ValueError or TypeError for a file of another form."""
    said = json.loads(path.read_text())
    said["plan"] = Plan(**{**said["plan"], "systems": tuple(said["plan"]["systems"])})
    said["samples"] = [Sample(**sample) for sample in said["samples"]]
    said["turns"] = {question: [Turn(**turn) for turn in turns] for question, turns in said["turns"].items()}
    said["broken"] = [(name, why) for name, why in said["broken"]]
    return Results(**said)
