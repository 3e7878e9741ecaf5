"""One connection on which scripts are run by their hash: what the server has forgotten is loaded again, replicas are
waited for where that is wanted, and whatever goes wrong comes back as an answer.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError, RedisError, ResponseError

from shared.errors import StorageError
from shared.storage.connect import RETRY_AFTER_S, Redis, as_storage_error
from shared.storage.scripts import ALL, CREATE, Script
from shared.storage.sending import OwnLine

log = logging.getLogger(__name__)

_WAIT_MS = 500


class ScriptCall(NamedTuple):
    """One call of a script."""

    script: Script
    keys: Sequence[str]
    args: Sequence[str | int]


class ScriptLine:
    """For one caller at a time, who closes it. `replicas`: how many must have what `run` did before it returns."""

    def __init__(self, redis: Redis, replicas: int = 0) -> None:
        self._redis = redis
        self._line = OwnLine(redis)
        self._replicas = replicas
        self._flags: bool | None = None

    @property
    def flags(self) -> bool | None:
        """Whether the server knows script flags; None until something was called."""
        return self._flags

    async def run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Each call's answer, in one exchange; in its place the client's ResponseError where the server refused that
        call, or a StorageError where the store could not be reached."""
        try:
            if self._flags is None:
                await self._load()
            answers = await self._execute(calls)
            if any(isinstance(answer, NoScriptError) for answer in answers):
                await self._load()  # the server was restarted and has forgotten them
                answers = await self._execute(calls)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("store: %s", type(error).__name__)
            return [as_storage_error(error)] * len(calls)
        except Exception as error:
            # The client library met something it did not expect; the calls fail, the process lives.
            log.exception("store")
            return [as_storage_error(error)] * len(calls)
        return answers

    async def aclose(self) -> None:
        """Close the connection."""
        await self._line.aclose()

    async def _execute(self, calls: Sequence[ScriptCall]) -> list[Any]:
        flags = bool(self._flags)
        commands: list[tuple[str | int, ...]] = [
            ("EVALSHA", script.sha(flags), len(keys), *keys, *args) for script, keys, args in calls
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
            self._flags = await knows_flags(self._redis)
        pipe = self._redis.pipeline(transaction=False)
        for script in ALL:
            pipe.script_load(script.source(self._flags))
        await pipe.execute()


async def knows_flags(redis: Redis) -> bool:
    """Whether the server knows script flags; fakeredis does not."""
    try:
        await redis.eval("#!lua flags=allow-oom\nreturn 1", 0)  # type: ignore[misc]  # its types promise no awaitable
    except ResponseError:
        return False
    return True


def told(answer: Any) -> Any:
    """An answer as a caller of ours may have it: errors are ours."""
    if isinstance(answer, RedisError):
        log.warning("script: %s", answer)
        return as_storage_error(answer)
    return answer
