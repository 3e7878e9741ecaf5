"""The model as a world: actors on the model's store, one moment of one of them at a time."""

from collections.abc import Callable
from typing import Any

from shared.events import START, Token
from shared.jobs import Act, OnInterrupt
from tests.model.actors import Actor
from tests.model.node import Node
from tests.model.observed import Invariant, Observed, Session, require
from tests.model.store import Protocol, Store
from tests.model.worker import Worker, end, post, reap
from tests.model.world import World

PLACES = 3
MOST_READERS = 4
MOST_POSTS = 3
MOST_STEPS = 10_000


class Reading:
    """A reader's connection."""

    def __init__(self, node: Node, session: Session) -> None:
        self.session = session
        self.actor = Actor(node.follow(session))


class ModelWorld(World):
    """See the head of this file. `protocol`: ours, or a mutant."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def open(self, on_interrupt: OnInterrupt, chance: int) -> None:
        """A fresh store."""
        self.observed = Observed()
        self._store = Store(self.observed, self._protocol, on_interrupt, chance)
        self._node = Node(self._store)
        self.places: list[tuple[Worker, Actor] | None] = [None] * PLACES
        self._readings: list[Reading] = []
        self._errands: list[Actor] = []
        self._late: list[Callable[[], Any]] = []
        self._names = self._posts = self._words = 0

    def close(self) -> None:
        """End everything."""
        for actor in self._actors():
            actor.kill()

    def _actors(self) -> list[Actor]:
        workers = [place[1] for place in self.places if place]
        return [*workers, *(reading.actor for reading in self._readings), *self._node.loops, *self._errands]

    def _errand(self, actor: Actor) -> None:
        self._errands = [other for other in self._errands if not other.over]
        self._errands.append(actor)

    # The job.

    def post(self) -> None:
        """A POST."""
        if self._posts < MOST_POSTS:
            self._posts += 1
            self._errand(Actor(post(self._store, f"job{self._posts}")))

    def cancel(self) -> None:
        """A cancel."""
        self._errand(Actor(end(self._store, Act.CANCELLED, "user")))

    def reap(self) -> None:
        """A look of the reaper."""
        self._errand(Actor(reap(self._store)))

    def lapse(self) -> None:
        """The lease ends."""
        self._store.lapse()

    # Workers.

    def claim(self, place: int, *, late: bool) -> None:
        """A worker gets an offer."""
        held = self.places[place]
        if held is None or held[1].over:
            self._names += 1
            worker = Worker(self._store, f"w{self._names}")
            self.places[place] = worker, Actor(worker.run(0 if late else self._store.epoch()))

    def _worker(self, which: int) -> Worker | None:
        held = [place[0] for place in self.places if place is not None and not place[1].over]
        return held[which % len(held)] if held else None

    def say(self, which: int, words: int) -> None:
        """Some words."""
        worker = self._worker(which)
        if worker is not None and worker.speaks:
            for _ in range(words):
                self._words += 1
                worker.events.append(Token(f"{self._words}."))

    def finish(self, which: int) -> None:
        """The end of the answer."""
        worker = self._worker(which)
        if worker is not None and worker.speaks:
            worker.closing = True

    def break_off(self, which: int) -> None:
        """A provider error."""
        worker = self._worker(which)
        if worker is not None and worker.speaks:
            worker.again = True

    def renew(self, which: int) -> None:
        """A renewal."""
        worker = self._worker(which)
        if worker is not None and worker.epoch:
            self._errand(Actor(worker.renew()))

    def drain(self, which: int) -> None:
        """A hand-over."""
        worker = self._worker(which)
        if worker is not None and worker.speaks:
            worker.drains = True

    def crash(self, place: int) -> None:
        """A kill."""
        held = self.places[place]
        if held is not None:
            held[1].kill()
            self.places[place] = None

    # Readers.

    def connect(self, cursor: int, *, now: bool) -> None:
        """A reader comes."""
        if len(self._readings) < MOST_READERS:
            ids = self.observed.known_ids
            chosen = ids[cursor % len(ids)] if not now else START
            self._readings.append(Reading(self._node, self.observed.connected(chosen, now=now)))

    def _reading(self, reader: int) -> Reading | None:
        return self._readings[reader % len(self._readings)] if self._readings else None

    def leave(self, reader: int) -> None:
        """A reader goes."""
        reading = self._reading(reader)
        if reading is not None:
            reading.actor.kill()
            self._readings.remove(reading)
            self.observed.left(reading.session)

    def resume(self, reader: int) -> None:
        """A reader comes again."""
        reading = self._reading(reader)
        if reading is not None:
            self.leave(reader)
            self._readings.append(Reading(self._node, self.observed.again(reading.session)))

    def tick(self) -> None:
        """A tick."""
        self._node.tick()

    # Faults.

    def replicate(self) -> None:
        """The replica catches up."""
        self._store.replicate()

    def fail_over(self) -> None:
        """The replica takes over, and all connections break."""
        self._store.fail_over()
        self._node.cut()

    def lose_notices(self) -> None:
        """Notices are lost."""
        self._node.lose_notices()

    def cut_notices(self) -> None:
        """The node's subscription breaks."""
        self._node.cut()

    def lose(self, actor: int, *, late: bool) -> None:
        """A connection breaks under a command."""
        busy = [one for one in self._actors() if one.commands]
        if busy:
            unseen = busy[actor % len(busy)].lose()
            if late and unseen is not None:
                self._late.append(unseen)

    # Time.

    def run(self, picks: int) -> None:
        """Some moments: three bits of `picks` say whose, one whether his whole next command."""
        for _ in range(4):
            ready = [actor for actor in self._actors() if actor.ready]
            choices = len(ready) + bool(self._late)
            if choices:
                chosen = (picks & 7) % choices
                if chosen == len(ready):
                    self._late.pop(0)()
                else:
                    self._steps(ready[chosen], 3 if picks & 8 else 1)
            picks >>= 4
        self._nobody_is_idle()

    def rest(self) -> None:
        """Everybody does all that he has to do."""
        self._run_out()
        self._nobody_is_idle()

    def _steps(self, actor: Actor, count: int) -> None:
        for _ in range(count):
            if actor.ready:
                self._store.now += 1
                actor.step()

    def _nobody_is_idle(self) -> None:
        if self._node.quiet:
            for reading in self._readings:
                if not reading.actor.over and not reading.actor.ready:
                    self.observed.idle(reading.session)

    def rest_without(self, one: Actor) -> None:
        """Everybody but one does all that he has to do."""
        self._run_out(one)

    def _run_out(self, but: Actor | None = None) -> None:
        for _ in range(MOST_STEPS):
            ready = [actor for actor in self._actors() if actor.ready and actor is not but]
            if not ready:
                return
            for actor in ready:
                self._steps(actor, 1)
        require(False, Invariant.NEVER_IDLE, "it never comes to rest")

    def settle(self) -> None:
        """All comes to its end."""
        for command in self._late:
            command()
        self._run_out()
        self._nobody_is_idle()
        for place in self.places:
            if place is not None:
                place[0].closing = True
        self._run_out()
        self._store.lapse()
        self._store.deadline_passed = True
        self.reap()
        self._run_out()
        self._nobody_is_idle()
        self.tick()
        self._run_out()
        self.observed.settled(endless=[])
        self._readings = []
        self._errands = []
        for cursor in self.observed.cursors:
            reading = Reading(self._node, self.observed.connected(cursor))
            self._readings = [reading]
            self._run_out()
            self.observed.replayed(cursor, reading.session.entries)
