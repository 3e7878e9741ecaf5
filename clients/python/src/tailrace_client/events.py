"""What a job's log says, as a reader sees it: event ids, events, and which of them end a job."""

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from tailrace_client.sse import Frame

_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}", re.ASCII)
_TERMINAL = frozenset({"done", "failed", "cancelled"})
_AT_THE_START = frozenset({"", "-1", "0", "0-0"})


class EventId(NamedTuple):
    """`<epoch>-<seq>`: a fencing epoch, and a number that rises by one over the whole log."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an id; ValueError for anything that is not `<epoch>-<seq>`."""
        if not _ID.fullmatch(text):
            raise ValueError(f"{text!r} is not an event id (<epoch>-<seq>)")
        epoch, _, seq = text.partition("-")
        return cls(int(epoch), int(seq))


START = EventId(0, 0)
"""The cursor of a reader that has seen nothing."""


def parse_cursor(text: str | None) -> EventId | None:
    """What `after=` means: an event id; START for nothing, ``-1``, ``0`` and ``0-0``; None for ``$`` (only what comes).

    ValueError for anything else, so that a typing error does not cost a round trip.
    """
    if text is None or text in _AT_THE_START:
        return START
    return None if text == "$" else EventId.parse(text)


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `data` is its JSON object as PROTOCOL.md describes it; `id` is None for `log_lost` alone."""

    type: str
    data: dict[str, Any]
    id: EventId | None = None

    @classmethod
    def of(cls, frame: Frame) -> Self:
        """Read a frame; ValueError where it is no event of the contract (data no object, id or `n` malformed)."""
        data = json.loads(frame.data)
        n = data.get("n", 1) if isinstance(data, dict) else None
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"{frame.event!r} carries data that is no event's: {frame.data[:80]}")
        return cls(frame.event, data, EventId.parse(frame.id) if frame.id else None)

    @property
    def n(self) -> int:
        """How many events of the log this one joins."""
        return int(self.data.get("n", 1))

    @property
    def text(self) -> str:
        """The text of a `token`, `reasoning` or `reset` event; empty for the others."""
        return str(self.data.get("text") or "")

    @property
    def snapshot(self) -> bool:
        """Whether this `reset` stands for everything up to its id instead of being in the log."""
        return self.type == "reset" and self.data.get("snapshot") is True

    @property
    def terminal(self) -> bool:
        """Whether the job ends here."""
        return self.type in _TERMINAL

    def as_json(self) -> str:
        """One line of JSON: `{"id": …, "event": …, "data": {…}}`, ASCII only."""
        return json.dumps({"id": str(self.id) if self.id else None, "event": self.type, "data": self.data})
