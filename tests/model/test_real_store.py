"""The same rules and the same invariants, on a real Valkey with the real scripts, through wires with faults."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine
from tests.model.observed import Observed
from tests.model.real_world import RealWorld
from tests.model.test_model import DRAWN, STEADY
from tests.support.stores import ValkeyProcess, running_valkey

TROUBLE = ("token", "done", "lost start", "snapshot after a loss")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyProcess]:
    """A server for one test."""
    with running_valkey(tmp_path / "valkey") as running:
        yield running


@pytest.mark.timeout(0 if DRAWN else 600)
def test_the_real_server_keeps_every_invariant_in_any_order_of_faults(server: ValkeyProcess, tmp_path: Path) -> None:
    class Real(Machine):
        make_world = staticmethod(lambda: RealWorld(server, tmp_path))

    Observed.seen.clear()
    how = settings(STEADY, max_examples=60, derandomize=True, stateful_step_count=25, phases=[Phase.generate])
    if DRAWN:
        how = settings(how, derandomize=False, max_examples=max(60, DRAWN // 50), phases=list(Phase))
    run_state_machine_as_test(Real, settings=how)
    missed = [what for what in TROUBLE if not Observed.seen[what]]
    assert missed == [], "a machine that meets no trouble proves nothing"
