"""What the model has found in the protocol before it was mended: each history, step by step."""

from shared.jobs import OnInterrupt
from tests.model.model_world import ModelWorld
from tests.model.store import Protocol


def _open(on_interrupt: OnInterrupt) -> ModelWorld:
    world = ModelWorld(Protocol())
    world.open(on_interrupt, 0)
    world.post()
    world.rest()
    return world


def _say(world: ModelWorld) -> None:
    world.say(0, 1)
    world.rest()


def test_an_answer_goes_on_from_what_the_log_has_although_a_failover_lost_what_it_went_on_from() -> None:
    world = _open(OnInterrupt.CONTINUE)
    world.claim(0, late=False)
    world.rest()
    _say(world)
    world.replicate()
    _say(world)
    world.crash(0)
    world.lapse()
    world.claim(1, late=False)
    world.rest()
    world.fail_over()
    world.lapse()
    _say(world)
    world.finish(0)
    world.settle()


def test_a_reader_that_has_the_end_is_let_go_when_the_end_that_was_lost_is_appended_again() -> None:
    world = _open(OnInterrupt.RESTART)
    world.connect(0, now=False)
    world.claim(0, late=False)
    world.rest()
    _say(world)
    world.replicate()
    world.finish(0)
    worker = world.places[0]
    assert worker is not None
    while not worker[1].replied:
        worker[1].step()
    world.rest_without(worker[1])
    world.fail_over()
    worker[1].lose()
    world.resume(0)
    world.settle()
