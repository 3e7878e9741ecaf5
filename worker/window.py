"""Counting over the last so many seconds, in constant time and memory however much there is to count. Pure."""

from collections import deque
from collections.abc import Callable


class Window:
    """Counts of two kinds, 0 and 1, over the last `span_s` seconds, to a bucket's width. `now`: a monotonic clock."""

    def __init__(self, span_s: float, now: Callable[[], float], *, buckets: int = 60) -> None:
        self._width_s = span_s / buckets
        self._most = buckets
        self._now = now
        self._buckets: deque[list[int]] = deque()
        """[number of the bucket, count of kind 0, count of kind 1], oldest first."""
        self._totals = [0, 0]

    def add(self, kind: int) -> None:
        """Count one."""
        number = self._forget()
        if not self._buckets or self._buckets[-1][0] != number:
            self._buckets.append([number, 0, 0])
        self._buckets[-1][1 + kind] += 1
        self._totals[kind] += 1

    def count(self, kind: int) -> int:
        """How many of this kind the window holds."""
        self._forget()
        return self._totals[kind]

    def _forget(self) -> int:
        number = int(self._now() / self._width_s)
        while self._buckets and self._buckets[0][0] <= number - self._most:
            _, zeros, ones = self._buckets.popleft()
            self._totals[0] -= zeros
            self._totals[1] -= ones
        return number
