"""What a reader got, connection by connection: the evidence that the judge works on."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

TERMINAL = ("done", "failed", "cancelled")


class Id(NamedTuple):
    """An event id."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "Id":
        """`<epoch>-<seq>`; ValueError for anything else."""
        epoch, _, seq = text.partition("-")
        return cls(int(epoch), int(seq))


START = Id(0, 0)


class Seen(NamedTuple):
    """One frame. `event` is `message` in the dialects that name none."""

    id: Id | None
    event: str
    data: dict[str, Any]


@dataclass
class Visit:
    """One connection. `cursor`: what it was opened with, `$` for a snapshot; `end`: how it ended.

    Ends: `whole` (the body's proper end), `broken`, `left` (by the reader's own will), `nothing` (204), `gone` (404 or
    410), `refused` (any other answer).
    """

    node: int
    cursor: Id | str
    frames: list[Seen] = field(default_factory=list)
    end: str = ""
    status: int = 0


@dataclass
class Transcript:
    """One reader's visits. `finish`: `terminal`, `nothing`, `gone`, `lost`, `left` (for ever), or empty: unfinished."""

    job: str
    dialect: str
    manner: str
    visits: list[Visit] = field(default_factory=list)
    finish: str = ""
    notes: list[str] = field(default_factory=list)
    """What was wrong with no need of a log to see it."""

    @property
    def resumes(self) -> int:
        """Connections that went on from a cursor."""
        return sum(isinstance(visit.cursor, Id) and visit.cursor != START for visit in self.visits)

    @property
    def events(self) -> int:
        """Events of all visits, joined ones counted as what they join."""
        return sum(frame.data.get("n", 1) for visit in self.visits for frame in visit.frames)

    def as_lines(self) -> list[str]:
        """For a person to read."""
        lines = [f"reader {self.dialect}/{self.manner} of {self.job}: {self.finish or 'unfinished'}", *self.notes]
        for visit in self.visits:
            lines.append(f"-- node {visit.node + 1}, cursor {visit.cursor}, status {visit.status}, {visit.end}")
            lines += [f"{frame.id} {frame.event} {frame.data}" for frame in visit.frames]
        return lines
