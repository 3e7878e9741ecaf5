"""The circuit: opens on failures of the provider alone, lets one probe through at a time, closes on an answer."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from worker.circuit import LEAST, MOST, SPAN_S, Circuits, Limits, Name, Passage

LIMITS = Limits(failures=5, open_s=4, open_max_s=20)
NAME = ("openai", "gpt-x")
OTHER = ("openai", "gpt-y")


class World:
    """Circuits with a clock that stands still and a chance that is always the largest."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.s = 1000.0
        self.told: list[tuple[Name, bool]] = []
        self.circuits = Circuits(
            limits, lambda: self.s, lambda: 1.0, lambda name, is_open: self.told.append((name, is_open))
        )

    def fail(self, times: int = 1, name: Name = NAME, retry_after_s: float | None = None) -> None:
        for _ in range(times):
            self.circuits.enter(name).failed(retry_after_s)

    def answer(self, times: int = 1) -> None:
        for _ in range(times):
            passage = self.circuits.enter(NAME)
            passage.answered()
            passage.released()

    def refuse(self, times: int = 1) -> None:
        for _ in range(times):
            self.circuits.enter(NAME).released()

    def wait(self) -> float | None:
        return self.circuits.wait_s(NAME)


def test_five_failures_in_a_row_open_it_and_four_do_not() -> None:
    world = World()
    world.fail(4)
    assert world.wait() is None
    world.fail()
    assert world.wait() == LIMITS.open_s
    assert world.told == [(NAME, True)]


def test_an_answer_begins_the_row_anew() -> None:
    world = World()
    world.fail(4)
    world.answer()
    world.fail(4)
    assert world.wait() is None


def test_a_refusal_says_nothing_and_does_not_break_the_row() -> None:
    world = World()
    world.refuse(100)
    assert world.wait() is None
    world.fail(4)
    world.refuse()
    world.fail()
    assert world.wait() is not None


def test_half_of_many_calls_open_it_although_some_answer_between() -> None:
    world = World()
    for _ in range(LEAST // 2 - 1):
        world.fail()
        world.answer()
    assert world.wait() is None
    world.answer()
    assert world.wait() is None  # an answer never opens it
    world.fail(2)
    assert world.wait() is not None


def test_failures_that_lie_far_apart_do_not_add_up() -> None:
    world = World()
    for _ in range(LEAST):
        world.fail()
        world.answer()
        world.s += SPAN_S
    assert world.wait() is None


def test_answers_that_break_midway_count_by_their_share_alone() -> None:
    world = World()
    broken = 0
    while world.wait() is None:
        passage = world.circuits.enter(NAME)
        passage.answered()
        passage.failed(None)
        broken += 1
    # The first answer came when there was no circuit yet to count it.
    assert broken == LEAST // 2 + 1


def test_each_model_has_its_own() -> None:
    world = World()
    world.fail(5)
    assert world.circuits.wait_s(OTHER) is None


def test_when_its_time_has_come_one_call_at_a_time_is_let_through() -> None:
    world = World()
    world.fail(5)
    world.s += LIMITS.open_s
    assert world.wait() is None
    probe = world.circuits.enter(NAME)
    assert world.wait() == LIMITS.open_s
    probe.released()
    assert world.wait() is None


def test_a_probe_that_hangs_keeps_nobody_from_trying_for_long() -> None:
    world = World()
    world.fail(5)
    world.s += LIMITS.open_s
    hanging = world.circuits.enter(NAME)
    assert world.wait() == LIMITS.open_s
    world.s += LIMITS.open_s
    assert world.wait() is None
    world.answer()
    assert world.told[-1] == (NAME, False)
    hanging.released()
    assert world.wait() is None


def test_an_answer_to_the_probe_closes_it_at_its_first_content() -> None:
    world = World()
    world.fail(5)
    world.s += LIMITS.open_s
    probe = world.circuits.enter(NAME)
    probe.answered()
    assert world.wait() is None
    assert world.told == [(NAME, True), (NAME, False)]
    probe.failed(None)  # that it breaks later is one failure among others
    assert world.wait() is None
    world.fail(4)
    assert world.wait() is None


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_the_cap() -> None:
    world = World()
    world.fail(5)
    waits = []
    for _ in range(5):
        waits.append(world.wait() or 0)
        world.s += waits[-1]
        world.fail()
    assert waits == [4, 8, 16, 20, 20]
    assert world.told == [(NAME, True)]


def test_after_an_answer_the_wait_is_short_again() -> None:
    world = World()
    world.fail(5)
    world.s += 4
    world.fail()
    world.s += 8
    world.answer()
    world.fail(5)
    assert world.wait() == 4


def test_workers_do_not_probe_together() -> None:
    waits = set()
    for chance in (0.0, 0.5, 1.0):
        circuits = Circuits(LIMITS, lambda: 0.0, lambda chance=chance: chance, lambda *_: None)  # type: ignore[misc]
        for _ in range(5):
            circuits.enter(NAME).failed(None)
        waits.add(circuits.wait_s(NAME))
    assert waits == {2, 3, 4}


@pytest.mark.parametrize(("retry_after_s", "wait_s"), [(1, 4), (7, 7), (3600, 20)])
def test_a_providers_own_retry_after_is_kept_up_to_the_cap(retry_after_s: float, wait_s: float) -> None:
    world = World()
    world.fail(5, retry_after_s=retry_after_s)
    assert world.wait() == wait_s


def test_what_was_called_before_it_opened_changes_nothing_any_more() -> None:
    world = World()
    early = [world.circuits.enter(NAME) for _ in range(3)]
    world.fail(5)
    early[0].answered()
    early[1].failed(100)
    early[2].released()
    assert world.wait() == LIMITS.open_s


def test_clients_cannot_fill_the_table_and_an_evicted_circuit_is_told_closed() -> None:
    world = World()
    for number in range(1000):
        world.circuits.enter(("openai", f"made-up-{number}")).released()
    assert len(world.circuits._table) == 0
    world.fail(5)
    world.s += 4
    probe = world.circuits.enter(NAME)
    for number in range(MOST):
        world.fail(name=("openai", f"model-{number}"))
    assert len(world.circuits._table) == MOST
    assert world.told == [(NAME, True), (NAME, False)]
    probe.answered()
    assert len(world.told) == 2


def test_no_limit_is_no_circuit() -> None:
    world = World(Limits(0, 1, 1))
    world.fail(100)
    assert world.wait() is None


class AnyOrder(RuleBasedStateMachine):
    """Calls that begin and end in any order, and time that passes."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.calls: list[Passage] = []
        self.probes: dict[int, float] = {}
        """When those that are out went out."""

    @precondition(lambda self: self.world.wait() is None)
    @rule()
    def enter(self) -> None:
        circuit = self.world.circuits.get(NAME)
        self.calls.append(self.world.circuits.enter(NAME))
        if circuit is not None and circuit.open:
            # One at a time; where one hangs, the next may follow in a while.
            assert all(self.world.s - since_s > LIMITS.open_s - 0.001 for since_s in self.probes.values())
            self.probes[id(self.calls[-1])] = self.world.s

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), how=st.sampled_from(["answered", "failed", "released"]))
    def speak(self, data: st.DataObject, how: str) -> None:
        call = data.draw(st.sampled_from(self.calls))
        if how == "failed":
            call.failed(None)
        elif how == "answered":
            call.answered()
        else:
            call.released()
        self.probes.pop(id(call), None)
        if how != "answered":
            self.calls.remove(call)

    @rule(span_s=st.floats(0, 30))
    def pass_time(self, span_s: float) -> None:
        self.world.s += span_s

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        """An open circuit has a probe out, or will let one through within the longest wait."""
        wait_s = self.world.wait()
        assert wait_s is None or self.probes or 0 < wait_s <= LIMITS.open_max_s

    @invariant()
    def what_was_told_is_so(self) -> None:
        circuit = self.world.circuits.get(NAME)
        told = [is_open for _, is_open in self.world.told]
        assert told == [place % 2 == 0 for place in range(len(told))]
        assert (bool(told) and told[-1]) is (circuit is not None and circuit.open)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
