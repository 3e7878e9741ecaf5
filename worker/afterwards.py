"""What nobody waits for, done a moment later and for many jobs at once: a round trip of its own for each costs a busy
worker 0.2 ms a job.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from shared.errors import TailraceError

log = logging.getLogger(__name__)

AFTER_S = 0.02
"""Nobody waits for it, but a reader for the provider's call."""

T = TypeVar("T")


class Afterwards(Generic[T]):
    """Calls `act` with all that was added within AFTER_S; a StorageError of it is only noted: others tidy up as well.

    `group`: the worker's task group, in which it is done before the worker ends.
    """

    def __init__(self, group: asyncio.TaskGroup, act: Callable[..., Awaitable[None]]) -> None:
        self._group = group
        self._act = act
        self._added: list[T] = []

    def add(self, one: T) -> None:
        """Have `act` called with `one` among others."""
        self._added.append(one)
        if len(self._added) == 1:
            self._group.create_task(self._do())

    async def _do(self) -> None:
        await asyncio.sleep(AFTER_S)
        added, self._added = self._added, []
        try:
            await self._act(*added)
        except TailraceError as error:
            log.debug("%d left to others: %s", len(added), error.code)
        except Exception:
            log.exception("%d left to others", len(added))
