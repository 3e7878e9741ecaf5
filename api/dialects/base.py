"""What a dialect is: a writer of log entries that belongs to one response."""

from typing import Protocol

from shared.events import Entry, Failed


class Dialect(Protocol):
    """Turns runs of entries into bytes.

    `shared` names the encoding where its bytes depend on the entries alone, so that a node encodes them once; None
    where they depend on what this response has sent. `retracts`: whether the wire can take text back. `reconnects`:
    whether its readers come back by themselves after a clean end, as EventSource does; the others must see an abort.
    """

    shared: str | None
    joins: bool
    """Whether it joins neighbours of one type: then they may come to it together (Texts)."""
    retracts: bool
    reconnects: bool
    finished: bool
    """Whether the response is over, although the log may go on."""

    def write(self, entries: list[Entry]) -> bytes:
        """The bytes of adjacent entries."""
        ...

    def lost(self, event: Failed) -> bytes:
        """The bytes of a failure that is not in the log."""
        ...

    def about(self, model: str) -> None:
        """Which model answers."""
        ...

    def resume(self, sent_points: int, *, started: bool) -> None:
        """The reader has so many code points of text, and the start or not, from an earlier response."""
        ...
