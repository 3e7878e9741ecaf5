"""Readers of every kind. Each keeps coming back until its job has ended, and writes down exactly what it got."""

import asyncio
import random
from contextlib import aclosing
from typing import Any

from tailrace_client import AsyncTailrace, Patience
from tailrace_client.errors import GoneError, TailraceError

from chaos.plan import ReaderPlan
from chaos.transcript import START, TERMINAL, Id, Seen, Transcript, Visit
from chaos.wire import BrokenError, EventSocket
from shared.errors import CODES
from tests.support.sse_reader import Frame

SILENCE_S = 6.0
"""Three heartbeats: after it a reader takes its node for dead and goes to the other."""
_SLOW_FRAMES = 12
_STALL_S = 5.0
"""Longer than a node's write time-out: a slow reader is cut off once."""
_INTERRUPTED = CODES["interrupted"].title


class Reader:
    """One reader of one job."""

    def __init__(self, ports: list[int], job: str, plan: ReaderPlan, seed: str) -> None:
        self._ports = ports
        self._plan = plan
        self._chance = random.Random(seed)
        self._node = plan.node % len(ports)
        self._cursor: Id | str = "$" if plan.manner == "now" else START
        self._socket: EventSocket | None = None
        self._gave_way = False
        self.transcript = Transcript(job, plan.dialect, plan.manner)

    @property
    def resumes(self) -> int:
        """How often it came back with a cursor."""
        return self.transcript.resumes

    @property
    def node(self) -> int | None:
        """The node it is connected to."""
        return None if self._socket is None else self._node

    def reset(self) -> bool:
        """Break its connection from outside; False where it has none."""
        if self._socket is not None:
            self._socket.reset()
        return self._socket is not None

    async def run(self) -> None:
        """Read to the end; the transcript says which."""
        await asyncio.sleep(self._plan.late_s)
        while not self.transcript.finish:
            visit = Visit(self._node, self._cursor)
            self.transcript.visits.append(visit)
            try:
                await self._visit(visit)
            except BrokenError:
                visit.end = visit.end or "broken"
            finally:
                if self._socket is not None:
                    self._socket.reset()
                    self._socket = None
            if not self.transcript.finish:
                await self._come_back(visit)

    async def _visit(self, visit: Visit) -> None:
        socket = EventSocket(
            self._ports[self._node],
            f"/jobs/{self.transcript.job}/events{self._query(visit.cursor)}",
            {"Last-Event-ID": str(visit.cursor)} if isinstance(visit.cursor, Id) and visit.cursor != START else {},
            small=self._plan.manner == "slow",
        )
        visit.status = await socket.open()
        self._socket = socket
        if visit.status != 200:
            self._refused(visit)
            return
        async with aclosing(socket.frames(SILENCE_S)) as arriving:
            async for frames in arriving:
                for frame in frames:
                    self._take(visit, frame)
                if self.transcript.finish:
                    break
                if not visit.end:  # else the server has ended it, in a dialect that says so
                    await self._behave(visit)
                if visit.end:
                    return
        visit.end = "whole"

    def _query(self, cursor: Id | str) -> str:
        asked = {"native": "", "exact": "exact=true"}.get(self._plan.dialect, f"dialect={self._plan.dialect}")
        parts = [part for part in (asked, "last_event_id=$" if cursor == "$" else "") if part]
        return "?" + "&".join(parts) if parts else ""

    def _refused(self, visit: Visit) -> None:
        if visit.status == 204:
            visit.end = self.transcript.finish = "nothing"
        elif visit.status in (404, 410):
            visit.end = self.transcript.finish = "gone"
        else:
            visit.end = "refused"
            self.transcript.notes.append(f"a reader was answered {visit.status}: EventSource would give up for ever")

    def _take(self, visit: Visit, frame: Frame) -> None:
        seen = Seen(Id.parse(frame.id) if frame.id else None, frame.event, frame.body)
        visit.frames.append(seen)
        if seen.id is not None:
            self._cursor = seen.id
        if self._plan.dialect in ("native", "exact"):
            if seen.event in TERMINAL:
                self.transcript.finish = "terminal" if seen.id is not None else "lost"
        elif _is_last(seen.data):
            if str(seen.data.get("error") or seen.data.get("message") or "").startswith(_INTERRUPTED):
                self._cursor = START  # only what survives is shown to a reader that starts afresh
                visit.end = "interrupted"
            else:
                self.transcript.finish = "terminal" if seen.id is not None else "lost"

    async def _behave(self, visit: Visit) -> None:
        """What this reader's manner makes of its appetite."""
        count, manner = len(visit.frames), self._plan.manner
        if manner == "slow" and count < _SLOW_FRAMES:
            await asyncio.sleep(_STALL_S if count == 5 and len(self.transcript.visits) == 1 else 0.2)
        if manner in ("hopping", "vanishing") and count >= self._plan.appetite and not self._gave_way:
            visit.end = "left"

    async def _come_back(self, visit: Visit) -> None:
        if visit.end == "left" and self._plan.manner == "vanishing":
            self._gave_way = True
            if self._plan.back_s is None:
                self.transcript.finish = "left"
                return
            await asyncio.sleep(self._plan.back_s)
        if visit.end != "whole" or visit.status != 200:
            self._node = (self._node + 1) % len(self._ports)
        await asyncio.sleep(self._chance.uniform(0.02, 0.3))


def _is_last(data: dict[str, Any]) -> bool:
    return bool(data.get("done")) or data.get("event") in ("done", "error")


class ClientReader:
    """The client library, which makes the job (again) with its key and follows it, at one node for ever."""

    def __init__(self, ports: list[int], plan: ReaderPlan, body: dict[str, Any], key: str) -> None:
        self._plan = plan
        self._node = plan.node % len(ports)
        self._url = f"http://127.0.0.1:{ports[self._node]}"
        self._body = {**body, "idempotency_key": key}
        self._cut_now = False
        self.resumes = 0
        self.transcript = Transcript("", "client", plan.manner)
        self.node: int | None = None

    def reset(self) -> bool:
        """Break its connection at the next event."""
        self._cut_now = self.node is not None
        return self._cut_now

    async def run(self) -> None:
        """Read to the end."""
        visit = Visit(self._node, START)
        self.transcript.visits.append(visit)
        patience = Patience(backoff=lambda tries, hint: 0.05 * min(tries + 1, 10), tries=200, read_timeout_s=SILENCE_S)
        async with AsyncTailrace(self._url, patience=patience) as tailrace:
            stream = tailrace.stream(**self._body)
            try:
                async for event in stream:
                    self.node = self._node
                    self.transcript.job = stream.job_id or ""
                    seen = Seen(Id(*event.id) if event.id else None, event.type, event.data)
                    visit.frames.append(seen)
                    tired = self._plan.manner == "hopping" and len(visit.frames) % self._plan.appetite == 0
                    if self._cut_now or tired:
                        self._cut_now = False
                        await stream.cut()
                lost = stream.terminal is not None and stream.terminal.id is None
                self.transcript.finish = "nothing" if stream.terminal is None else "lost" if lost else "terminal"
            except GoneError:
                self.transcript.finish = "gone"
            except TailraceError as error:
                self.transcript.notes.append(f"the client library gave up: {error!r}")
            self.node = None
            counters = stream.counters
            self.resumes = counters.resumes
            if counters.lost or counters.doubled or counters.holes:
                self.transcript.notes.append(f"the client library counted {counters}")
