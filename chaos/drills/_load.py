"""Load for drills: jobs that come one after another, each followed by a reader that keeps what it is given."""

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tailrace_client import TailraceError

from chaos.drills._judge import Watched, faults_of_log, faults_of_reader
from chaos.drills._stage import GUARD_S, Stage, until

Make = Callable[[int], dict[str, Any]]
"""The params and other fields of the n-th job: `{"params": {...}, ...}`."""


class Load:
    """Keeps `width` jobs open for the length of a block; at its end waits for those that run."""

    def __init__(self, stage: Stage, width: int, make: Make) -> None:
        self._stage = stage
        self._width = width
        self._make = make
        self._count = 0
        self._open: set[str] = set()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.watched: list[Watched] = []
        self.refused = 0
        """POSTs that got no job: allowed while the store is away."""

    @property
    def open(self) -> list[str]:
        """Jobs whose readers have not seen an end yet."""
        return list(self._open)

    def no_more(self) -> None:
        """Make no new jobs; those that run go on."""
        self._stopping = True

    async def speaking(self) -> None:
        """Wait until all of the load has spoken."""
        await until(lambda: sum(watched.speaks for watched in self.watched) >= self._width)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._keep()) for _ in range(self._width)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        if kind is None and self._tasks:
            await asyncio.wait(self._tasks, timeout=GUARD_S)
        for task in self._tasks:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        broken = [end for end in ends if isinstance(end, Exception)]
        if broken and kind is None:
            raise broken[0]

    async def _keep(self) -> None:
        while not self._stopping:
            self._count += 1
            fields = self._make(self._count)
            watched = Watched(fields.get("params", {}))
            try:
                await self._follow(watched, fields)
            except TailraceError:
                if watched.job_id:
                    raise
                self.refused += 1
                await asyncio.sleep(0.1)

    async def _follow(self, watched: Watched, fields: dict[str, Any]) -> None:
        job = {"provider": "scripted", "model": "drill", "prompt": "go", **fields}
        stream = self._stage.tailrace.stream(**job)
        try:
            async for event in stream:
                if not watched.job_id:
                    watched.job_id = str(stream.job_id)
                    self.watched.append(watched)
                    self._open.add(watched.job_id)
                watched.seen.append(event)
        finally:
            watched.text = stream.transcript.text
            counters = stream.counters
            watched.lost, watched.doubled, watched.resumes = counters.lost, counters.doubled, counters.resumes
            self._open.discard(watched.job_id)
            with contextlib.suppress(Exception):
                await stream.aclose()

    async def faults(self) -> list[str]:
        """Everything that is wrong with any job or any reader, after the end."""
        found = []
        for watched in self.watched:
            entries = await self._stage.entries(watched.job_id)
            wrong = faults_of_log(entries) + faults_of_reader(watched, entries)
            if not watched.over:
                wrong.append("the reader never saw an end")
            found += [f"job {watched.job_id}: {fault}" for fault in wrong]
        return found
