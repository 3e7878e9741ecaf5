"""A job: its states, the one table of transitions, and the record that the store keeps of it."""

import secrets
import time
from enum import StrEnum
from typing import Any

import msgspec

from shared.events import PROVIDER_CALLS, rfc3339

MAX_ATTEMPTS = 5
"""How many times generating may start."""
MAX_CRASHES = 3
"""How many leases may lapse unfinished before the job is taken for poison."""


class Status(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Act(StrEnum):
    """What can be done to a job. Each is one atomic server-side script."""

    CLAIM = "claim"
    RELEASE = "release"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: dict[Status, dict[Act, Status]] = {
    Status.QUEUED: {
        Act.CLAIM: Status.RUNNING,
        Act.FAILED: Status.FAILED,
        Act.CANCELLED: Status.CANCELLED,
    },
    Status.RUNNING: {
        Act.CLAIM: Status.RUNNING,
        Act.RELEASE: Status.QUEUED,
        Act.DONE: Status.DONE,
        Act.FAILED: Status.FAILED,
        Act.CANCELLED: Status.CANCELLED,
    },
    Status.DONE: {},
    Status.FAILED: {},
    Status.CANCELLED: {},
}
"""Every legal change of state. The server-side scripts are loaded with this very table (storage/scripts)."""

TERMINAL = frozenset(status for status, acts in TRANSITIONS.items() if not acts)


class OnInterrupt(StrEnum):
    """What happens when generating is interrupted after the first content event."""

    RESTART = "restart"
    CONTINUE = "continue"
    FAIL = "fail"


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of the conversation, in OpenAI's chat shape; `content` is text or a list of content parts."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class JobRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was asked for: the validated body of the POST, as it is stored with the job."""

    provider: str
    model: str
    messages: list[Message]
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    params: dict[str, Any] = {}
    on_interrupt: OnInterrupt = OnInterrupt.RESTART
    priority: int = 5
    metadata: dict[str, str] = {}
    ttl_s: int | None = None
    cancel_if_unread_s: int | None = None


class JobKey(msgspec.Struct, frozen=True):
    """A job's full name. The tenant is part of every key, so that a forgotten check finds nothing."""

    tenant: str
    id: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.id}"

    @classmethod
    def parse(cls, text: str) -> "JobKey":
        """Read `tenant/id`."""
        tenant, _, job_id = text.partition("/")
        return cls(tenant, job_id)


class Upstream(msgspec.Struct, frozen=True):
    """A generation that the provider keeps: a broken stream, or another worker, can read on after `position`.

    `position` is the provider's own count of what the log has, -1 for nothing of it. `base`: how many code points the
    text had before this generation began. `stateful`: reading on needs what came before, so it is read again (not
    stored: a successor finds that out from the log).
    """

    id: str
    position: int = -1
    base: int = 0
    stateful: bool = False

    def __str__(self) -> str:
        return f"{self.base} {self.position} {self.id}"

    @classmethod
    def parse(cls, text: str) -> "Upstream | None":
        """Read `<base> <position> <id>`; None for what is none, so that a damaged record can be worked on."""
        base, _, rest = text.partition(" ")
        position, _, name = rest.partition(" ")
        try:
            return cls(name, int(position), int(base)) if name else None
        except ValueError:
            return None


class JobRecord(msgspec.Struct, frozen=True):
    """The stored state of a job without its log. Times are ms since 1970 by the store's clock."""

    key: JobKey
    request: JobRequest
    status: Status
    created_ms: int
    deadline_ms: int
    epoch: int = 0
    attempt: int = 0
    crashes: int = 0
    queue_ms: int | None = None
    ttft_ms: int | None = None
    finished_ms: int | None = None
    expires_ms: int | None = None
    unread_ms: int | None = None
    """For how long nobody may read it before it is cancelled; None where that is nobody's concern."""
    usage: dict[str, int] = {}
    upstream: Upstream | None = None
    """Where the answer comes from, if the provider keeps it. Never shown to a client."""
    terminal: dict[str, Any] = {}
    """The data of the terminal event, empty while the job is open."""

    @property
    def ended(self) -> bool:
        """Whether the terminal event is in the log."""
        return self.status in TERMINAL

    def view(self) -> dict[str, Any]:
        """The job as the API shows it, without what only the log knows (text, reasoning, tool calls)."""
        timings = self.terminal.get("timings") or {
            name: value for name, value in (("queue_ms", self.queue_ms), ("ttft_ms", self.ttft_ms)) if value is not None
        }
        error = {name: self.terminal[name] for name in ("code", "message", "retryable") if name in self.terminal}
        usage = dict(self.terminal.get("usage", self.usage))
        calls = usage.pop(PROVIDER_CALLS, 0)
        return {
            "id": self.key.id,
            "provider": self.request.provider,
            "model": self.request.model,
            "status": self.status.value,
            "finish_reason": self.terminal.get("finish_reason"),
            "usage": usage,
            "attempt": self.attempt,
            "provider_calls": calls,
            "error": error or None,
            "timings": timings,
            "metadata": self.request.metadata,
            "created_at": rfc3339(self.created_ms),
            "finished_at": None if self.finished_ms is None else rfc3339(self.finished_ms),
            "expires_at": None if self.expires_ms is None else rfc3339(self.expires_ms),
            "events_url": f"/jobs/{self.key.id}/events",
        }


_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
JOB_ID_PATTERN = f"^[{_ALPHABET}]{{26}}$"
"""What `is_job_id` takes, for the API's description of itself."""


def _base32(number: int, digits: int) -> str:
    return "".join(_ALPHABET[(number >> 5 * place) & 31] for place in range(digits - 1, -1, -1))


def new_job_id() -> str:
    """A fresh id: 48 bits of time and 80 of chance, sortable by creation (ULID, lower case)."""
    return job_id_prefix(time.time_ns() // 1_000_000) + _base32(secrets.randbits(80), 16)


def job_id_prefix(ms: int) -> str:
    """What the ids of all jobs made in the millisecond `ms` (since 1970) begin with."""
    return _base32(max(ms, 0), 10)


def job_id_ms(text: str) -> int | None:
    """The millisecond (since 1970) in which a job's id was made, by its node's clock; None for what is no job id."""
    if not is_job_id(text):
        return None
    ms = 0
    for letter in text[:10]:
        ms = ms << 5 | _ALPHABET.index(letter)
    return ms


def is_job_id(text: str) -> bool:
    """Whether `text` has the form of a job id."""
    return len(text) == 26 and all(letter in _ALPHABET for letter in text)
