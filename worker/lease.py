"""Keeping the leases of everything that runs here, in one batch every two seconds."""

import asyncio
import logging
from collections.abc import Callable, Collection

from shared import metrics
from shared.errors import TailraceError
from shared.storage.jobs import JobStore
from worker.generate import Generation, Stop

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Renews leases, and stops a generation whose lease is somebody else's."""

    def __init__(
        self,
        store: JobStore,
        worker: str,
        running: Callable[[], Collection[Generation]],
        *,
        every_s: float,
        lease_ms: int,
    ) -> None:
        self._store = store
        self._worker = worker
        self._running = running
        self._every_s = every_s
        self._lease_ms = lease_ms

    async def run(self) -> None:
        """Renew until cancelled. A store that is away is asked again: the lease comes back if nobody took the job."""
        while True:
            await asyncio.sleep(self._every_s)
            async with asyncio.TaskGroup() as group:
                for generation in list(self._running()):
                    group.create_task(self._renew(generation))

    async def _renew(self, generation: Generation) -> None:
        epoch = generation.epoch
        try:
            verdict = await self._store.renew(generation.job, self._worker, epoch, self._lease_ms)
        except TailraceError as error:  # a damaged record, too, concerns one job and not this loop
            metrics.RENEWALS.labels(error.code).inc()
            log.warning("job %s: lease not renewed: %s", generation.job, error.code)
            return
        metrics.RENEWALS.labels(verdict).inc()
        # STALE is the writer's to mend: its next append takes the job again. A new epoch means that it just did, and a
        # claim under way that it may have: the store may know of it before this worker does.
        if verdict in ("LOST", "ENDED", "GONE") and generation.epoch == epoch and not generation.claiming:
            generation.stop(Stop.FENCED)
