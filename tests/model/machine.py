"""The one set of rules: what may happen to a job, in any order, to the model as well as to the real server."""

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from shared.jobs import OnInterrupt
from tests.model.world import World

PLACE = st.integers(0, 2)
READER = st.integers(0, 3)
WORDS = st.integers(1, 3)
SELDOM = st.integers(0, 7).map(lambda number: number == 7)
OFTEN = st.integers(0, 1).map(bool)
PICKS = st.integers(0, 2**16 - 1)


class Machine(RuleBasedStateMachine):
    """Drives a world. What must hold is judged by the world's `observed`, at every event and at the end."""

    make_world: Callable[[], World]

    def __init__(self) -> None:
        super().__init__()
        self.world = type(self).make_world()
        self._sound = True

    def _do(self, act: Callable[[], None] | None, picks: int) -> None:
        self._sound = False
        if act is not None:
            act()
        self.world.run(picks)
        self._sound = True

    @initialize(on_interrupt=st.sampled_from(OnInterrupt), chance=st.integers(0, 99), taken=st.integers(0, 7))
    def begin(self, on_interrupt: OnInterrupt, chance: int, taken: int) -> None:
        """A job is posted. Mostly a worker has it already, and a reader is there: more is to be seen so."""
        self.world.open(on_interrupt, chance)
        self._do(self.world.post, 0)
        if taken:
            self._do(self.world.rest, 0)
            self.world.replicate()
        if taken > 1:
            self.world.claim(0, late=False)
            self._do(self.world.rest, 0)
        if taken > 2:
            self.world.connect(0, now=False)

    def teardown(self) -> None:
        """All comes to its end, and that is judged too."""
        try:
            if self._sound:
                self.world.settle()
        finally:
            self.world.close()

    @rule(seldom=SELDOM, picks=PICKS)
    def rest(self, seldom: bool, picks: int) -> None:
        """Nothing happens for a while, and all that is under way arrives."""
        self._do(self.world.rest if seldom else None, picks)

    @rule(picks=PICKS)
    def run(self, picks: int) -> None:
        """Time passes."""
        self._do(None, picks)

    @rule(place=PLACE, late=SELDOM, picks=PICKS)
    def claim(self, place: int, late: bool, picks: int) -> None:
        """A worker gets an offer."""
        self._do(lambda: self.world.claim(place, late=late), picks)

    @rule(which=PLACE, words=WORDS, picks=PICKS)
    def say(self, which: int, words: int, picks: int) -> None:
        """A worker's provider says something."""
        self._do(lambda: self.world.say(which, words), picks)

    @rule(which=PLACE, words=WORDS, picks=PICKS)
    def say_more(self, which: int, words: int, picks: int) -> None:
        """A worker's provider says something; this rule is here twice to be chosen more often."""
        self._do(lambda: self.world.say(which, words), picks)

    @rule(which=PLACE, now=SELDOM, picks=PICKS)
    def finish(self, which: int, now: bool, picks: int) -> None:
        """A worker's provider has said all."""
        self._do((lambda: self.world.finish(which)) if now else None, picks)

    @rule(which=PLACE, now=SELDOM, picks=PICKS)
    def break_off(self, which: int, now: bool, picks: int) -> None:
        """A worker's provider broke."""
        self._do((lambda: self.world.break_off(which)) if now else None, picks)

    @rule(which=PLACE, picks=PICKS)
    def renew(self, which: int, picks: int) -> None:
        """A worker renews its lease."""
        self._do(lambda: self.world.renew(which), picks)

    @rule(which=PLACE, picks=PICKS)
    def drain(self, which: int, picks: int) -> None:
        """A worker hands its job over."""
        self._do(lambda: self.world.drain(which), picks)

    @rule(place=PLACE, now=SELDOM, picks=PICKS)
    def crash(self, place: int, now: bool, picks: int) -> None:
        """A worker is killed."""
        self._do((lambda: self.world.crash(place)) if now else None, picks)

    @rule(picks=PICKS)
    def lapse(self, picks: int) -> None:
        """A lease ends, although its owner may live."""
        self._do(self.world.lapse, picks)

    @rule(now=SELDOM, picks=PICKS)
    def cancel(self, now: bool, picks: int) -> None:
        """Somebody cancels the job."""
        self._do(self.world.cancel if now else None, picks)

    @rule(picks=PICKS)
    def post_again(self, picks: int) -> None:
        """The POST is repeated."""
        self._do(self.world.post, picks)

    @rule(picks=PICKS)
    def reap(self, picks: int) -> None:
        """The reaper looks."""
        self._do(self.world.reap, picks)

    @rule(cursor=st.integers(0, 15), now=SELDOM, picks=PICKS)
    def connect(self, cursor: int, now: bool, picks: int) -> None:
        """A reader comes."""
        self._do(lambda: self.world.connect(cursor, now=now), picks)

    @rule(reader=READER, picks=PICKS)
    def resume(self, reader: int, picks: int) -> None:
        """A reader's connection breaks, and it comes again with its cursor."""
        self._do(lambda: self.world.resume(reader), picks)

    @rule(reader=READER, picks=PICKS)
    def leave(self, reader: int, picks: int) -> None:
        """A reader goes."""
        self._do(lambda: self.world.leave(reader), picks)

    @rule(picks=PICKS)
    def tick(self, picks: int) -> None:
        """The node looks at everything."""
        self._do(self.world.tick, picks)

    @rule(picks=PICKS)
    def replicate(self, picks: int) -> None:
        """The replica has what the primary has."""
        self._do(self.world.replicate, picks)

    @rule(now=OFTEN, picks=PICKS)
    def fail_over(self, now: bool, picks: int) -> None:
        """The replica becomes the primary, with what it has."""
        self._do(self.world.fail_over if now else None, picks)

    @rule(picks=PICKS)
    def lose_notices(self, picks: int) -> None:
        """Notices are lost."""
        self._do(self.world.lose_notices, picks)

    @rule(picks=PICKS)
    def cut_notices(self, picks: int) -> None:
        """The connection that carries notices breaks."""
        self._do(self.world.cut_notices, picks)

    @rule(actor=st.integers(0, 7), late=st.booleans(), picks=PICKS)
    def lose(self, actor: int, late: bool, picks: int) -> None:
        """A connection breaks under a command; the store may carry it out later."""
        self._do(lambda: self.world.lose(actor, late=late), picks)
