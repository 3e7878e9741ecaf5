"""Script calls of a whole process, joined: what asks while a round trip is under way goes out together in the next.

A redis-py call awaited by itself costs about ten times one in a batch (performance notes, §7.5), and one connection
serves all jobs of a worker. Nothing waits for a timer: an idle batcher sends at once.
"""

import asyncio
import logging
from collections.abc import Sequence

from redis.exceptions import NoScriptError, RedisError, ResponseError

from shared.errors import StorageError
from shared.storage.connect import RETRY_AFTER_S, Redis, as_storage_error
from shared.storage.scripts import ALL, CREATE, END, FINISH, RELEASE, Script
from shared.storage.sending import OwnLine

log = logging.getLogger(__name__)

MAX_BATCH = 512
_WAITED_FOR = (CREATE, FINISH, END, RELEASE)  # the last so that it cannot overtake a FINISH
_WAIT_MS = 500


class _Call:
    __slots__ = ("args", "future", "keys", "script")

    def __init__(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> None:
        self.script = script
        self.keys = keys
        self.args = args
        self.future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()


class Batcher:
    """Runs scripts. Owned by the composition root, which keeps `run()` in its task group; calls wait until it runs."""

    def __init__(self, redis: Redis, replicas: int = 0) -> None:
        """`replicas`: how many must have a create, a cancel or an end before it is answered (0: there are none)."""
        self._plain = _Lane(redis)
        # On a connection of its own: tokens do not wait for replicas.
        self._waiting = _Lane(redis, replicas) if replicas else self._plain

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> list[str]:
        """The script's answer. StorageError where the store cannot be reached or has no memory left, or where a create
        has not reached its replicas: then a failover could lose what would have been acknowledged."""
        lane = self._waiting if script in _WAITED_FOR else self._plain
        return await lane.call(_Call(script, keys, args))

    @property
    def flags(self) -> bool | None:
        """Whether the server knows script flags; None until something was called."""
        return self._plain.flags

    async def run(self) -> None:
        """Serve calls until cancelled; a call that is still waiting then is cancelled too."""
        async with asyncio.TaskGroup() as group:
            for lane in {self._plain, self._waiting}:
                group.create_task(lane.run())


class _Lane:
    """Calls that go out one batch after the other. `replicas`: what each batch waits for."""

    def __init__(self, redis: Redis, replicas: int = 0) -> None:
        self._redis = redis
        self._line = OwnLine(redis)
        self._replicas = replicas
        self._pending: list[_Call] = []
        self._wanted = asyncio.Event()
        self._flags: bool | None = None

    @property
    def flags(self) -> bool | None:
        """See Batcher."""
        return self._flags

    async def call(self, call: _Call) -> list[str]:
        self._pending.append(call)
        self._wanted.set()
        return await call.future

    async def run(self) -> None:
        calls: list[_Call] = []
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while self._pending:
                    calls, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
                    await self._serve(calls)
        finally:
            for call in (*calls, *self._pending):
                call.future.cancel()
            await self._line.aclose()

    async def _serve(self, calls: list[_Call]) -> None:
        try:
            if self._flags is None:
                await self._load()
            answers = await self._execute(calls)
            if any(isinstance(answer, NoScriptError) for answer in answers):
                await self._load()  # the server was restarted and has forgotten them
                answers = await self._execute(calls)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("store: %s", type(error).__name__)
            answers = [as_storage_error(error)] * len(calls)
        except Exception as error:
            # The client library met something it did not expect; the calls fail, the process lives.
            log.exception("store")
            answers = [as_storage_error(error)] * len(calls)
        for call, answer in zip(calls, answers, strict=True):
            _settle(call.future, answer)

    async def _execute(self, calls: list[_Call]) -> list[object]:
        flags = bool(self._flags)
        commands: list[tuple[str | int, ...]] = [
            ("EVALSHA", call.script.sha(flags), len(call.keys), *call.keys, *call.args) for call in calls
        ]
        if not self._replicas:
            return await self._line.exchange(commands)
        *answers, reached = await self._line.exchange([*commands, ("WAIT", self._replicas, _WAIT_MS)])
        if isinstance(reached, int) and reached >= self._replicas:
            return answers
        log.warning("%s of %d replicas have the last writes; a failover now could lose them", reached, self._replicas)
        # What has ended has ended, and saying otherwise would help nobody; but a new job can be asked for again.
        refused = StorageError("storage_unavailable", retry_after_s=RETRY_AFTER_S)
        return [refused if call.script is CREATE else answer for call, answer in zip(calls, answers, strict=True)]

    async def _load(self) -> None:
        """Load all scripts, and find out once whether this server knows script flags."""
        if self._flags is None:
            try:
                await self._redis.eval("#!lua flags=allow-oom\nreturn 1", 0)  # type: ignore[misc]  # its types promise no awaitable
                self._flags = True
            except ResponseError:
                self._flags = False
        pipe = self._redis.pipeline(transaction=False)
        for script in ALL:
            pipe.script_load(script.source(self._flags))
        await pipe.execute()


def _settle(future: asyncio.Future[list[str]], answer: object) -> None:
    if future.done():
        return  # the caller has gone; what its script did stands, and repeating it is harmless
    if isinstance(answer, RedisError):
        future.set_exception(as_storage_error(answer))
        log.warning("script: %s", answer)
    elif isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)  # type: ignore[arg-type]
