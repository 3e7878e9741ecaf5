"""How often a provider may be asked again: a share of its first calls in the last minute, so that an outage is not met
with a multiple of the load that brought it about. Pure; the clock is given.
"""

from collections.abc import Callable

from worker.window import Window

WINDOW_S = 60.0
_FIRST, _RETRY = 0, 1


class RetryBudget:
    """The budget of one provider in one worker.

    In any minute at most `percent` % of the first calls are repeated, or `floor` calls where that is more: a service
    with a job a minute has no calls to take a share of.
    """

    def __init__(self, percent: float, floor: int, now: Callable[[], float]) -> None:
        self._percent = percent
        self._floor = floor
        self._window = Window(WINDOW_S, now)

    def called(self) -> None:
        """An attempt's first call is made; retries are none, or they would earn further ones."""
        self._window.add(_FIRST)

    def grant(self) -> bool:
        """Whether one retry more may be made; if so it is taken, also if it is not made in the end."""
        allowed = max(self._floor, self._window.count(_FIRST) * self._percent / 100)
        if self._window.count(_RETRY) + 1 > allowed:
            return False
        self._window.add(_RETRY)
        return True
