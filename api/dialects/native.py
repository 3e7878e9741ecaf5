"""The native dialect: the log as PROTOCOL.md describes it."""

from api import sse
from shared.events import Entry, Failed


class Native:
    """Stateless, so a node encodes a run once for all its readers."""

    retracts = True
    reconnects = True
    finished = False

    def __init__(self, *, exact: bool = False) -> None:
        self._exact = exact
        self.joins = not exact
        self.shared: str | None = "native-exact" if exact else "native"

    def write(self, entries: list[Entry]) -> bytes:
        """One frame an entry, or joined frames where adjacent text allows it."""
        return sse.native_run(entries, exact=self._exact)

    def lost(self, event: Failed) -> bytes:
        """`failed` without an id: it is not in the log, and a reader's cursor must not move."""
        return sse.native(event, None)

    def about(self, model: str) -> None:
        """The log says so itself."""

    def resume(self, sent_points: int, *, started: bool) -> None:
        """Nothing to remember: a `reset` says how much stays."""
