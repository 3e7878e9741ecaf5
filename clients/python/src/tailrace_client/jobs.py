"""A job as the server shows it, the page of a list of jobs, and what can be asked for."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Required, Self, TypedDict

Status = Literal["queued", "running", "done", "failed", "cancelled"]
OnInterrupt = Literal["restart", "continue", "fail"]


class NewJob(TypedDict, total=False):
    """The fields of a new job; PROTOCOL.md describes them. A field that is None is left out."""

    provider: Required[str]
    model: Required[str]
    prompt: str | None
    """One user message; or `messages`."""
    messages: list[dict[str, Any]] | None
    """The conversation in OpenAI's chat shape."""
    system: str | None
    max_tokens: int | None
    temperature: float | None
    params: dict[str, Any] | None
    """What the provider's allow-list lets through: tools, stop, top_p, seed …"""
    on_interrupt: OnInterrupt | None
    priority: int | None
    """0 to 9, higher first."""
    metadata: dict[str, str] | None
    ttl_s: int | None
    """Seconds that the job is kept after its end."""
    cancel_if_unread_s: int | None
    """Seconds without any reader after which the job is cancelled."""
    idempotency_key: str | None
    """Left out: a fresh one a call, so that this library's own retries never make two jobs."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job. Times are RFC 3339 in UTC; `raw` is the object as it came, with whatever a newer server adds."""

    id: str
    status: Status
    provider: str = ""
    model: str = ""
    text: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    attempt: int = 0
    provider_calls: int = 0
    last_event_id: str | None = None
    error: dict[str, Any] | None = None
    timings: dict[str, float] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    created_at: str | None = None
    finished_at: str | None = None
    expires_at: str | None = None
    events_url: str = ""
    read_token: str | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Self:
        """Read the server's object; KeyError without `id` and `status`. An absent or null field has its default."""
        known = {name: raw[name] for name in cls.__slots__ if name != "raw" and raw.get(name) is not None}
        return cls(**{"id": raw["id"], "status": raw["status"], **known}, raw=raw)

    @property
    def ended(self) -> bool:
        """Whether the terminal event is in the log."""
        return self.status in ("done", "failed", "cancelled")


class JobPage(NamedTuple):
    """Some of the caller's jobs, newest first. `next` goes into `after=` for the rest; None at the end."""

    data: list[Job]
    next: str | None
