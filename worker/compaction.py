"""Rewrites logs that have ended compactly, beside the worker's real work and with a small share of its time.

Every worker does, none is in charge: what has ended stands on a list in the control store until its log is rewritten,
so one that dies costs a minute's delay. Readers see no difference (shared/storage/log.py).
"""

import asyncio
import logging
import random

from shared import metrics
from shared.errors import RecordError, StorageError
from shared.jobs import JobKey
from shared.storage.compaction import LogCompaction
from shared.storage.control import Control

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often a worker looks for ended jobs."""
AT_ONCE = 64
"""Jobs that are taken in one look; they must be done within a minute, or others take them as well."""
REST_S = 0.01
"""Between two parts of a millisecond or two each: generations come first."""


class Compactor:
    """Owned by the composition root, which keeps `run()` in its task group."""

    def __init__(self, control: Control, compaction: LogCompaction, *, after_s: float) -> None:
        """`after_s`: how long after its end a log is rewritten; 0: never."""
        self._control = control
        self._compaction = compaction
        self._after_s = after_s

    async def run(self) -> None:
        """Look and rewrite until cancelled."""
        while self._after_s:
            await asyncio.sleep(LOOK_S * random.uniform(0.8, 1.2))
            try:
                while await self.look():
                    pass
            except StorageError as error:
                log.debug("compaction waits: %s", error.code)
            except Exception:
                log.exception("compaction broke")

    async def look(self) -> bool:
        """Rewrite the logs of what has ended; whether there may be more."""
        jobs = await self._control.take_ended(self._after_s, AT_ONCE)
        settled = []
        for job in jobs:
            if await self._rewrite(job):
                settled.append(job)
            await _rest()
        await self._control.rewritten(*settled)
        return len(jobs) == AT_ONCE

    async def _rewrite(self, job: JobKey) -> bool:
        """Whether that settles it: one that was not as it was read is anybody's again in a minute."""
        try:
            verdict = await self._compaction.rewrite(job, _rest)
        except RecordError as error:
            log.error("job %s: %s", job, error.message)  # noqa: TRY400 - a trace would say nothing of the record
            return True
        except StorageError:
            raise
        except Exception:
            log.exception("job %s: its log stays as it is", job)  # and keeps no other from being rewritten
            return True
        metrics.COMPACTIONS.labels(verdict).inc()
        return verdict != "CHANGED"


async def _rest() -> None:
    await asyncio.sleep(REST_S)
