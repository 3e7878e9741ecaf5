"""What a drill finds wrong: in a log as the store has it, and in what a reader was given of it. Pure."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tailrace_client import Event as Seen

from chaos.drills.frame import Figure
from shared.events import (
    TERMINAL,
    Cancelled,
    Done,
    Entry,
    Event,
    Failed,
    Queued,
    Reasoning,
    Reset,
    Start,
    Token,
    data,
)
from shared.transcript import fold
from tests.support.watch import said


@dataclass
class Watched:
    """One job and what its reader saw."""

    params: dict[str, Any]
    job_id: str = ""
    seen: list[Seen] = field(default_factory=list)
    text: str = ""
    lost: int = 0
    doubled: int = 0
    resumes: int = 0

    @property
    def speaks(self) -> bool:
        """Whether the reader has seen a token."""
        return any(event.type == "token" for event in self.seen)

    @property
    def over(self) -> bool:
        """Whether the reader has the terminal event."""
        return bool(self.seen) and self.seen[-1].terminal


def none(name: str, found: list[str]) -> Figure:
    """There is to be nothing found; the first few, where there is."""
    return Figure(name, f"{len(found)}: {'; '.join(found[:3])}" if found else "0", "0", not found)


def end_of(entries: list[Entry]) -> Done | Failed | Cancelled | None:
    """A log's terminal event; None while there is none."""
    last = entries[-1].event if entries else None
    return last if isinstance(last, Done | Failed | Cancelled) else None


def created_ms(entries: list[Entry]) -> int:
    """When the job was made, ms since 1970."""
    first = entries[0].event
    assert isinstance(first, Queued)
    return first.at_ms or 0


def faults_of_log(entries: list[Entry]) -> list[str]:
    """Where a finished job's log breaks the invariants of DESIGN §2."""
    found = []
    seqs = [entry.id.seq for entry in entries]
    if seqs != list(range(1, len(seqs) + 1)):
        found.append("seq has holes")
    epochs = [entry.id.epoch for entry in entries]
    if epochs != sorted(epochs):
        found.append("an older epoch follows a newer one")
    ends = [place for place, entry in enumerate(entries) if isinstance(entry.event, TERMINAL)]
    if ends != [len(entries) - 1]:
        found.append(f"terminal events at {ends} of {len(entries)}")
    for before, entry in pairwise(entries):
        opens = isinstance(entry.event, Start | Reset | Failed | Cancelled)
        if entry.id.epoch != before.id.epoch and not opens:
            found.append(f"{entry.id} begins an epoch with {entry.event.type}")
    return found


def faults_of_reader(watched: Watched, entries: list[Entry]) -> list[str]:
    """Where a reader was given something else than the log holds, or not all of it."""
    found = [f"{watched.lost} lost"] if watched.lost else []
    if watched.doubled:
        found.append(f"{watched.doubled} doubled")
    by_seq = {entry.id.seq: entry for entry in entries}
    for event in watched.seen:
        if event.id is None or event.snapshot:
            continue
        joined = [by_seq.get(seq) for seq in range(event.id.seq - event.n + 1, event.id.seq + 1)]
        kept = [entry for entry in joined if entry is not None and entry.id.epoch == event.id.epoch]
        if len(kept) != event.n or not _same(event, [entry.event for entry in kept]):
            found.append(f"the log does not hold {event.type} {event.id}, which the reader was given")
    end = end_of(entries)
    if watched.text != fold(entry.event for entry in entries).text:
        found.append("the reader's text is not the log's")
    if isinstance(end, Done) and watched.text != said(watched.params, _speaks_as(watched.params, end.attempt)):
        found.append("the text is not what the provider said")
    return found


def reruns_ms(entries: list[Entry], epoch: int, since_ms: float) -> float | None:
    """How long after `since_ms` the job began anew behind `epoch`; None where it has ended in `epoch`, or for good."""
    for entry in entries:
        if entry.id.epoch > epoch:
            event = entry.event
            return created_ms(entries) + (event.at_ms or 0) - since_ms if isinstance(event, Reset) else None
    return None


def is_poisoned(entries: list[Entry]) -> bool:
    """Whether the job was given up after its third crash."""
    end = end_of(entries)
    return isinstance(end, Failed) and end.code == "poisoned"


def _same(event: Seen, kept: list[Event]) -> bool:
    if all(isinstance(one, Token | Reasoning) and one.type == event.type for one in kept):
        return event.text == "".join(one.text for one in kept if isinstance(one, Token | Reasoning))
    body = data(kept[0])
    return len(kept) == 1 and kept[0].type == event.type and all(event.data.get(name) == body[name] for name in body)


def _speaks_as(params: dict[str, Any], attempt: int) -> int:
    """Without a seed every attempt says the same, and a continued answer is whole as the first attempt's."""
    return attempt if "seed" in params else 1
