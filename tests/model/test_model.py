"""The protocol as a model: whatever happens in whatever order, the invariants hold.

The run is the same every time. TAILRACE_MODEL_EXAMPLES=20000 runs so many others instead, drawn anew.
"""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine
from tests.model.model_world import ModelWorld
from tests.model.observed import Observed
from tests.model.store import Protocol

DRAWN = int(os.environ.get("TAILRACE_MODEL_EXAMPLES", "0"))
STEADY = settings(
    max_examples=2_000,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
TROUBLE = ("appended again", "snapshot after a loss", "told lost", "nothing follows", "worker_lost", "drained")
LOSSES = ("lost queued", "lost start", "lost token", "lost reset", "lost done", "lost cancelled", "lost failed")


class Ours(Machine):
    """The model of what is built."""

    make_world = staticmethod(lambda: ModelWorld(Protocol()))


@pytest.mark.timeout(0 if DRAWN else 600)
def test_the_protocol_keeps_every_invariant_in_any_order_of_faults() -> None:
    Observed.seen.clear()
    how = settings(STEADY, derandomize=False, max_examples=DRAWN) if DRAWN else STEADY
    run_state_machine_as_test(Ours, settings=how)
    missed = [what for what in (*TROUBLE, *LOSSES) if not Observed.seen[what]]
    assert missed == [], "a machine that meets no trouble proves nothing"
