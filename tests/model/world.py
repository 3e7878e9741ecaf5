"""What the machine may do to a system, whatever it is made of: the model, or real processes' parts on a real server."""

from abc import ABC, abstractmethod

from shared.jobs import OnInterrupt
from tests.model.observed import Observed


class World(ABC):
    """One job with its store, three workers' places, a node and its readers. What cannot be done is not done."""

    observed: Observed

    @abstractmethod
    def open(self, on_interrupt: OnInterrupt, chance: int) -> None:
        """A fresh store. `on_interrupt` is the job's; `chance` decides what is drawn."""

    @abstractmethod
    def close(self) -> None:
        """End everything."""

    # The job.

    @abstractmethod
    def post(self) -> None:
        """A POST, with the one Idempotency-Key."""

    @abstractmethod
    def cancel(self) -> None:
        """Somebody cancels the job."""

    @abstractmethod
    def reap(self) -> None:
        """The reaper looks at the job."""

    @abstractmethod
    def lapse(self) -> None:
        """The owner is silent for longer than a lease."""

    # Workers: they come to a place, and then `which` picks one of those that are there.

    @abstractmethod
    def claim(self, place: int, *, late: bool) -> None:
        """A worker gets an offer, which may be an old one."""

    @abstractmethod
    def say(self, which: int, words: int) -> None:
        """Its provider says some words."""

    @abstractmethod
    def finish(self, which: int) -> None:
        """Its provider has said all."""

    @abstractmethod
    def break_off(self, which: int) -> None:
        """Its provider broke, and it starts a new attempt."""

    @abstractmethod
    def renew(self, which: int) -> None:
        """It renews its lease."""

    @abstractmethod
    def drain(self, which: int) -> None:
        """It hands its job over."""

    @abstractmethod
    def crash(self, place: int) -> None:
        """It is killed."""

    # Readers.

    @abstractmethod
    def connect(self, cursor: int, *, now: bool) -> None:
        """A reader comes: with an id that once was in the log (a number picks it), or without a cursor."""

    @abstractmethod
    def resume(self, reader: int) -> None:
        """A reader's connection breaks, and it comes again with its cursor."""

    @abstractmethod
    def leave(self, reader: int) -> None:
        """A reader goes."""

    @abstractmethod
    def tick(self) -> None:
        """The node looks at everything, notice or not."""

    # Faults.

    @abstractmethod
    def replicate(self) -> None:
        """The replica has what the primary has."""

    @abstractmethod
    def fail_over(self) -> None:
        """The replica becomes the primary, with what it has."""

    @abstractmethod
    def lose_notices(self) -> None:
        """Notices that are under way are lost, and nobody learns of it."""

    @abstractmethod
    def cut_notices(self) -> None:
        """The connection that carries notices breaks."""

    @abstractmethod
    def lose(self, actor: int, *, late: bool) -> None:
        """The connection of somebody breaks under a command; `late`: the store carries it out all the same, later."""

    # Time.

    @abstractmethod
    def run(self, picks: int) -> None:
        """A few steps, of those who can make one; `picks` says whose."""

    @abstractmethod
    def rest(self) -> None:
        """Everybody does all that he has to do, and nothing else happens meanwhile."""

    @abstractmethod
    def settle(self) -> None:
        """Faults are over, the deadline passes, and everybody who lives does all that he has to do."""
