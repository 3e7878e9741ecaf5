"""A job that is to be made: what create_v1.lua is told of it, and what its answer means."""

from dataclasses import dataclass
from typing import Any

import msgspec

from shared.errors import TailraceError
from shared.events import Queued, encode
from shared.jobs import JobKey, JobRecord, JobRequest, Status
from shared.storage.keys import job_keys
from shared.storage.scripts import CREATE
from shared.storage.sealed import Values


@dataclass(frozen=True, slots=True)
class Creation:
    """The job, and for how long it may take, is kept after its end, and may go unread (None: for ever)."""

    job: JobKey
    request: JobRequest
    deadline_s: float
    ttl_s: int
    unread_s: float | None = None

    def args(self, values: Values) -> tuple[str | int, ...]:
        """The script's arguments. `values`: how text is stored."""
        request = self.request
        return (
            values.request(job_keys(self.job), msgspec.json.encode(request).decode()),
            request.provider,
            request.model,
            encode(Queued(self.job.id, request.provider, request.model))[1],
            _ms(self.deadline_s),
            self.ttl_s * 1000,
            request.on_interrupt.value,
            request.priority,
            "" if self.unread_s is None else _ms(self.unread_s),
        )

    def command(self, flags: bool, values: Values) -> tuple[str | int, ...]:
        """The script itself as a command: no server can have forgotten it. `flags`: whether it knows script flags."""
        keys = job_keys(self.job)
        return ("EVAL", CREATE.source(flags), len(keys), *keys, *self.args(values))

    def record(self, answer: Any) -> JobRecord | None:
        """The job as the script's answer has it; None where it was there already. `gone` where it has been and went."""
        if answer[0] == "GONE":
            raise TailraceError("gone")
        created_ms = int(answer[1])
        if answer[2] != "1":
            return None
        return JobRecord(
            self.job,
            self.request,
            Status.QUEUED,
            created_ms,
            created_ms + _ms(self.deadline_s),
            unread_ms=None if self.unread_s is None else _ms(self.unread_s),
        )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
