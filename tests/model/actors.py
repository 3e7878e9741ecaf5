"""Actors of the model: protocols written as generators, which stop wherever another actor may come between.

An actor yields `Do`, one command to the store, or `Until`, a condition that it waits for. A command has three moments:
it is under way, it was carried out and its reply is under way, the reply has come. Anything may happen between them,
and either half may be lost (`Away` is thrown into the actor, as StorageError into ours).
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any


class Away(Exception):  # noqa: N818  # it is what the store is, not what went wrong
    """The connection broke under a command."""


@dataclass(slots=True)
class Do:
    """One atomic step of the store."""

    command: Callable[[], Any]


@dataclass(slots=True)
class Until:
    """Wait for something that happens in the same process."""

    holds: Callable[[], bool]


Script = Generator[Do | Until, Any, Any]


class Actor:
    """Runs one script, a moment at a time."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._reply: Any = None
        self.replied = False
        self.over = False
        self.at: Do | Until = Until(lambda: True)
        self._go_on(None)

    def _go_on(self, value: Any) -> None:
        try:
            self.at = self._script.send(value)
        except StopIteration:
            self.over = True

    @property
    def ready(self) -> bool:
        """Whether a step does something."""
        return not self.over and (isinstance(self.at, Do) or self.at.holds())

    @property
    def commands(self) -> bool:
        """Whether a command of it is under way."""
        return not self.over and isinstance(self.at, Do)

    def step(self) -> None:
        """The next moment of it."""
        if isinstance(self.at, Until):
            self._go_on(None)
        elif self.replied:
            self.replied = False
            self._go_on(self._reply)
        else:
            self._reply, self.replied = self.at.command(), True

    def lose(self) -> Callable[[], Any] | None:
        """Break the connection under the command that is under way. Returns it if the store has not seen it yet."""
        assert isinstance(self.at, Do)
        unseen = None if self.replied else self.at.command
        self.replied = False
        try:
            self.at = self._script.throw(Away())
        except StopIteration:
            self.over = True
        return unseen

    def kill(self) -> None:
        """The process is gone."""
        self._script.close()
        self.over = True
