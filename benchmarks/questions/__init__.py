"""One script a question; each has a first line that says what it asks, and `measure(bench) -> list[Sample]`."""

from collections.abc import Callable
from types import ModuleType

from benchmarks.bench import Bench
from benchmarks.questions import (
    bytes_per_token,
    cost_by_length,
    fair,
    fan_out,
    first_token,
    flood,
    idle_readers,
    lag_100,
    lag_by_streams,
    pickup,
    replay_10k,
    resume_tail,
    storm,
    streams_1000,
    tools,
)
from benchmarks.samples import Sample

QUESTIONS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        first_token,
        lag_100,
        streams_1000,
        flood,
        fan_out,
        replay_10k,
        resume_tail,
        cost_by_length,
        storm,
        idle_readers,
        pickup,
        fair,
        bytes_per_token,
        lag_by_streams,
        tools,
    )
}
"""Name → module, in the order in which they are asked: those that read the same long logs one behind the other."""


def measurer(name: str) -> Callable[[Bench], list[Sample]]:
    """The `measure` of a question."""
    measure: Callable[[Bench], list[Sample]] = QUESTIONS[name].measure
    return measure
