"""Script calls of a whole process, joined: what asks while a round trip is under way goes out together in the next.

A redis-py call awaited by itself costs about ten times one in a batch (performance notes, §7.5), and one connection
serves all jobs of a worker. Nothing waits for a timer: an idle batcher sends at once.
"""

import asyncio
from collections.abc import Sequence

from shared.storage.appends import Appends
from shared.storage.connect import Redis
from shared.storage.script_line import ScriptCall, ScriptLine, told
from shared.storage.scripts import CREATE, END, FINISH, RELEASE, Script
from shared.storage.sealed import PLAIN, Values

MAX_BATCH = 512
_WAITED_FOR = (CREATE, FINISH, END, RELEASE)  # the last so that it cannot overtake a FINISH


class Batcher:
    """Runs scripts. Owned by the composition root, which keeps `run()` in its task group; calls wait until it runs."""

    def __init__(self, redis: Redis, replicas: int = 0, values: Values = PLAIN) -> None:
        """`replicas`: how many must have a create, a cancel or an end before it is answered (0: there are none).
        `values`: how text is stored."""
        self.values = values
        self._plain = _Lane(ScriptLine(redis))
        # On connections of their own: tokens do not wait for replicas, and claims not for tokens.
        self._waiting = _Lane(ScriptLine(redis, replicas)) if replicas else self._plain
        self.appends = Appends(ScriptLine(redis), values)
        """Appends do not wait to be called: see there."""

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> list[str]:
        """The script's answer. StorageError where the store cannot be reached or has no memory left, or where a create
        has not reached its replicas: then a failover could lose what would have been acknowledged."""
        lane = self._waiting if script in _WAITED_FOR else self._plain
        return await lane.call(ScriptCall(script, keys, args))

    @property
    def flags(self) -> bool | None:
        """Whether the server knows script flags; None until something was called."""
        return self._plain.flags

    async def run(self) -> None:
        """Serve calls until cancelled; a call that is still waiting then is cancelled too."""
        async with asyncio.TaskGroup() as group:
            for lane in {self._plain, self._waiting}:
                group.create_task(lane.run())
            group.create_task(self.appends.run())


_Waiting = tuple[ScriptCall, asyncio.Future[list[str]]]


class _Lane:
    """Calls that go out one batch after the other."""

    def __init__(self, line: ScriptLine) -> None:
        self._line = line
        self._pending: list[_Waiting] = []
        self._wanted = asyncio.Event()

    @property
    def flags(self) -> bool | None:
        """See Batcher."""
        return self._line.flags

    async def call(self, call: ScriptCall) -> list[str]:
        future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._pending.append((call, future))
        self._wanted.set()
        return await future

    async def run(self) -> None:
        waiting: list[_Waiting] = []
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while self._pending:
                    waiting, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
                    answers = await self._line.run([call for call, _ in waiting])
                    for (_, future), answer in zip(waiting, answers, strict=True):
                        _settle(future, answer)
        finally:
            for _, future in (*waiting, *self._pending):
                future.cancel()
            await self._line.aclose()


def _settle(future: asyncio.Future[list[str]], answer: object) -> None:
    if future.done():
        return  # the caller has gone; what its script did stands, and repeating it is harmless
    answer = told(answer)
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)  # type: ignore[arg-type]
