"""Transactions of a whole process, joined: what asks while an exchange is under way goes out together in the next.

Each is carried out whole or not at all, and in the order of its commands. Nothing waits for a timer.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from shared.errors import TailraceError
from shared.storage.connect import Redis, storage_errors
from shared.storage.sending import OwnLine

log = logging.getLogger(__name__)

MOST_AT_ONCE = 64
"""Transactions in one exchange: a store serves nobody else meanwhile."""

Command = tuple[Any, ...]


class RefusedError(Exception):
    """The store has refused a transaction, and carried nothing of it out."""


class _Transaction:
    __slots__ = ("commands", "future")

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = commands
        self.future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()


class Transactions:
    """Owned by the composition root, which keeps `run()` in its task group; calls wait until it runs."""

    def __init__(self, redis: Redis) -> None:
        self._line = OwnLine(redis)
        self._pending: list[_Transaction] = []
        self._taken: list[_Transaction] = []
        self._wanted = asyncio.Event()

    @property
    def under_way(self) -> int:
        """How many wait, or are being carried out."""
        return len(self._pending) + len(self._taken)

    async def carry_out(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to `commands`, each of which has to be one that can be carried out twice. An error may stand in
        place of one that broke on what it found.

        RefusedError where nothing was carried out; StorageError where nobody knows.
        """
        transaction = _Transaction(commands)
        self._pending.append(transaction)
        self._wanted.set()
        return await transaction.future

    async def run(self) -> None:
        """Serve transactions until cancelled; one that is still waiting then is cancelled too."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while self._pending:
                    self._taken, self._pending = self._pending[:MOST_AT_ONCE], self._pending[MOST_AT_ONCE:]
                    await self._serve(self._taken)
                    self._taken = []  # with their prompts
        finally:
            for transaction in (*self._taken, *self._pending):
                transaction.future.cancel()
            await self._line.aclose()

    async def _serve(self, taken: list[_Transaction]) -> None:
        commands: list[Command] = []
        for transaction in taken:
            commands += (("MULTI",), *transaction.commands, ("EXEC",))
        try:
            with storage_errors():
                replies = await self._line.exchange(commands)
        except TailraceError as error:
            log.warning("store: %s", error.code)
            # Who waited behind it has waited long enough, and of those nothing was sent.
            waiting, self._pending = self._pending, []
            for transaction in (*taken, *waiting):
                _settle(transaction.future, error)
            return
        at = 0
        for transaction in taken:
            at += len(transaction.commands) + 2
            _settle(transaction.future, replies[at - 1])  # EXEC's: all that was done, or why nothing was


def _settle(future: asyncio.Future[list[Any]], answer: Any) -> None:
    if future.done():
        return  # the caller has gone; what was carried out stands
    if isinstance(answer, list):
        future.set_result(answer)
    elif isinstance(answer, TailraceError):
        future.set_exception(answer)
    else:
        log.warning("transaction: %s", answer)
        future.set_exception(RefusedError(str(answer)))
