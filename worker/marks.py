"""Which position of the provider's own record covers which events, so that both go into the store together."""

from bisect import bisect_right
from typing import Literal

from shared.jobs import Upstream


class Marks:
    """The upstreams of one attempt: each covers all events up to its place, and no more.

    A batch that is noted with an upstream has to end exactly where this one does: a successor asks the provider for
    what follows, and would show an event twice that stands behind it.
    """

    def __init__(self) -> None:
        self._places: list[int] = []
        self._upstreams: list[Upstream | None] = []
        self._noted: str | None = None

    @property
    def due(self) -> bool:
        """Whether the store is to hear of the last one without waiting for an event: another generation, or none."""
        return bool(self._places) and self._noted != _name(self._upstreams[-1])

    def set(self, place: int, upstream: Upstream | None) -> None:
        """`upstream` covers the first `place` events; None: no generation does any more."""
        if self._places and self._places[-1] == place:
            self._upstreams[-1] = upstream
        else:
            self._places.append(place)
            self._upstreams.append(upstream)

    def cut(self, start: int, end: int) -> tuple[int, Upstream | Literal["", "-"]]:
        """Where a batch that begins at `start` and may go up to `end` has to end, and what to note with it."""
        at = bisect_right(self._places, end) - 1
        if at < 0 or self._places[at] < start:
            return end, ""
        if self._places[at] == start < end and not (self.due and at == len(self._places) - 1):
            return end, ""
        return self._places[at], self._upstreams[at] or "-"

    def noted(self, upstream: Upstream | Literal["", "-"]) -> None:
        """The store has `upstream`."""
        if upstream:
            self._noted = upstream.id if isinstance(upstream, Upstream) else ""


def _name(upstream: Upstream | None) -> str:
    return upstream.id if upstream is not None else ""
