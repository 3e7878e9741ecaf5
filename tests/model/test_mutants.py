"""Ways to do it that look right and are not: the machine that finds nothing in ours finds each of them out."""

from dataclasses import replace

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine
from tests.model.model_world import ModelWorld
from tests.model.observed import Invariant, Violation
from tests.model.store import Protocol
from tests.model.test_model import STEADY

MUTANTS = [
    ("read_before_subscribed", Invariant.NEVER_IDLE),
    ("clear_after_read", Invariant.NEVER_IDLE),
    ("cancel_in_running_epoch", Invariant.IDS),
    ("counted_epoch", Invariant.IDS),
    ("plain_append", Invariant.IDS),
    ("payload_in_notice", Invariant.IDS),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("flag", "broken"), MUTANTS)
def test_a_wrong_protocol_is_found_out_by_the_invariant_that_it_breaks(flag: str, broken: Invariant) -> None:
    protocol = replace(Protocol(), **{flag: True})

    class Wrong(Machine):
        make_world = staticmethod(lambda: ModelWorld(protocol))

    # Without shrinking: what matters here is that it is found.
    quick = settings(STEADY, max_examples=2_000, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(Violation) as found:
        run_state_machine_as_test(Wrong, settings=quick)
    assert found.value.invariant is broken
