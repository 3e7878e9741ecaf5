"""The appends of a whole process, joined: whoever has events says so, and what all have by then goes out in one call.

No task has a turn for an append and none is waited for by name: the next batch is asked for when the line is free, and
its answer is handed back. At 20 tokens a second a job's batch is one token, so that what counts is the cost of a call,
for this process and for the server (decision 0021).
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from redis.exceptions import ClusterCrossSlotError, ResponseError

from shared.errors import RecordError, StorageError, TailraceError
from shared.events import Event
from shared.jobs import Upstream
from shared.storage.connect import RETRY_AFTER_S, as_storage_error
from shared.storage.keys import JobKeys
from shared.storage.script_line import ScriptCall, ScriptLine, told
from shared.storage.scripts import APPEND
from shared.storage.sealed import PLAIN, Values

log = logging.getLogger(__name__)

MAX_JOBS = 64
MAX_EVENTS = 256
MAX_CHARS = 262_144
"""What one call takes, but for a batch that is larger by itself: the server does nothing else meanwhile, for 1 to 3
ms."""


class Appended(NamedTuple):
    """Where a batch ended: OK, FENCED, GAP, STALE, GONE or ENDED, with the log's last seq."""

    verdict: str
    last_seq: int


class Batch(NamedTuple):
    """Events to append as `<epoch>-<first_seq>`…, if the log ends right before; `ttft_ms` with an attempt's first
    content event.

    `upstream`: what covers exactly the log with these events; "" leaves it as it is, "-" says that there is none.
    """

    keys: JobKeys
    epoch: int
    first_seq: int
    events: Sequence[Event]
    ttft_ms: int | None = None
    upstream: Upstream | Literal["", "-"] = ""


class _Packed(NamedTuple):
    """A batch whose events are written out, as fields and values."""

    batch: Batch
    events: list[str]
    chars: int


class Appending(Protocol):
    """Whoever owns a job's epoch, and has events for its log now and then. Neither method may raise."""

    def next_batch(self) -> Batch | None:
        """What is to be appended now, asked for once after each `Appends.ask`; None: nothing any more."""

    def answered(self, answer: Appended | TailraceError) -> None:
        """What became of that batch: StorageError where nobody knows, RecordError where the record is damaged."""


class Appends:
    """Appends for all jobs of a process over one connection. Its owner keeps `run()` in a task group."""

    def __init__(self, line: ScriptLine, values: Values = PLAIN) -> None:
        self._line = line
        self._values = values
        self._asking: list[Appending] = []
        self._under_way: list[tuple[Appending, _Packed]] = []
        self._wanted = asyncio.Event()
        self._apart = False

    def ask(self, source: Appending) -> None:
        """Have the next batch of `source` appended as soon as the line is free. Not again before it is answered."""
        self._asking.append(source)
        self._wanted.set()

    async def run(self) -> None:
        """Append until cancelled; of what is under way then nobody knows what becomes of it."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while self._asking:
                    await self._serve()
        finally:
            lost = StorageError("storage_unavailable", retry_after_s=RETRY_AFTER_S)
            for source in (*(source for source, _ in self._under_way), *self._asking):
                source.answered(lost)
            await self._line.aclose()

    async def _serve(self) -> None:
        asking, self._asking = self._asking, []
        packed = ((source, _packed(source, self._values)) for source in asking)
        self._under_way = [(source, batch) for source, batch in packed if batch is not None]
        try:
            answers = await self._append([batch for _, batch in self._under_way])
        except Exception as error:
            log.exception("appends")  # the server answered something that no script says; the process lives
            answers = [as_storage_error(error)] * len(self._under_way)
        answered, self._under_way = self._under_way, []
        for (source, _), answer in zip(answered, answers, strict=True):
            source.answered(answer)

    async def _append(self, batches: list[_Packed]) -> list[Appended | TailraceError]:
        calls = list(_joined(batches, 1 if self._apart else MAX_JOBS))
        answers: list[Appended | TailraceError] = []
        for call, answer in zip(calls, await self._line.run([_call(call) for call in calls]), strict=True):
            if len(call) > 1 and self._one_spoils(answer):
                # What was done before the call broke is done; each batch by itself finds out, and says so.
                for batch, alone in zip(call, await self._line.run([_call([batch]) for batch in call]), strict=True):
                    answers += _answers([batch], alone)
            else:
                answers += _answers(call, answer)
        return answers

    def _one_spoils(self, answer: Any) -> bool:
        """Whether a call broke on one of its jobs, or on their being together: a cluster keeps them apart."""
        if isinstance(answer, ClusterCrossSlotError):
            self._apart = True
            return True
        return isinstance(answer, ResponseError) and isinstance(as_storage_error(answer), RecordError)


def _packed(source: Appending, values: Values) -> _Packed | None:
    """The next batch of `source`; None where it has none, or cannot write it: then it is told so, and nobody else."""
    batch = source.next_batch()
    if batch is None:
        return None
    try:
        events = values.events(batch.keys, batch.epoch, batch.first_seq, batch.events)
    except Exception:
        log.exception("%s: an event cannot be written", batch.keys.log)
        source.answered(TailraceError("internal"))
        return None
    return _Packed(batch, events, sum(map(len, events)))


def _joined(batches: list[_Packed], most: int) -> Iterator[list[_Packed]]:
    """The batches in order, call by call."""
    call: list[_Packed] = []
    events = chars = 0
    for one in batches:
        count = len(one.batch.events)
        if call and (len(call) == most or events + count > MAX_EVENTS or chars + one.chars > MAX_CHARS):
            yield call
            call, events, chars = [], 0, 0
        call.append(one)
        events += count
        chars += one.chars
    if call:
        yield call


def _call(batches: list[_Packed]) -> ScriptCall:
    keys: list[str] = []
    args: list[str | int] = []
    for batch, events, _ in batches:
        keys += batch.keys[:2]
        ttft_ms: int | str = "" if batch.ttft_ms is None else batch.ttft_ms
        args += (batch.epoch, batch.first_seq, len(batch.events), ttft_ms, str(batch.upstream))
        args += events
    return ScriptCall(APPEND, keys, args)


def _answers(batches: list[_Packed], answer: Any) -> list[Appended | TailraceError]:
    answer = told(answer)
    if isinstance(answer, TailraceError):
        return [answer] * len(batches)
    return [Appended(*pair) for pair in zip(answer[::2], answer[1::2], strict=True)]
