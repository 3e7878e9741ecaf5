"""The bodies that clients send, checked: every field named, bounded, and refused with what to do when it is wrong."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from shared.errors import TailraceError
from shared.jobs import JobRequest, Message, OnInterrupt
from shared.params import PROVIDERS, validate_params, without_surplus
from shared.settings import Settings
from shared.strict import StrictModel

_DEEPEST = 32
"""Levels of lists and objects in a body; the deepest tool schemas seen have about a dozen."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def _sound(value: Any, level: int = 0) -> Any:
    """Refuse at the door what cannot be stored and shown faithfully: NUL, lone surrogates, NaN, bottomless nesting."""
    if level > _DEEPEST:
        raise ValueError(f"nested deeper than {_DEEPEST} levels; flatten it")
    if isinstance(value, str):
        if "\x00" in value:
            raise ValueError("a NUL character is not allowed; leave it out")
        if not value.isascii() and _SURROGATE.search(value):
            raise ValueError("a lone surrogate is not a character; send whole characters")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("NaN and infinity are no JSON numbers; send a finite one")
    elif isinstance(value, list):
        for item in value:
            _sound(item, level + 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            _sound(name, level + 1)
            _sound(item, level + 1)
    return value


Text = Annotated[str, BeforeValidator(_sound)]
Name = Annotated[
    str, BeforeValidator(_sound), StringConstraints(min_length=1, max_length=200, pattern=r"^[^\s\x00-\x1f\x7f]+$")
]
_Objects = Annotated[list[dict[str, Any]], Field(fail_fast=True)]


class MessageIn(StrictModel):
    """One message, in OpenAI's chat shape."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | _Objects | None, BeforeValidator(_sound)] = None
    name: Name | None = None
    tool_calls: Annotated[_Objects | None, BeforeValidator(_sound)] = None
    tool_call_id: Name | None = None

    @model_validator(mode="after")
    def _has_content(self) -> "MessageIn":
        if not self.content and not self.tool_calls:
            raise ValueError("a message needs content")
        return self


class JobIn(StrictModel):
    """The body of POST /jobs."""

    model_config = ConfigDict(
        title="JobRequest",
        json_schema_extra={
            "examples": [
                {"provider": "openai", "model": "gpt-4o-mini", "prompt": "Why is the sky blue?", "max_tokens": 200},
                {
                    "provider": "anthropic",
                    "model": "claude-haiku-4-5-20251001",
                    "system": "Answer in one sentence.",
                    "messages": [{"role": "user", "content": "What is a tailrace?"}],
                    "on_interrupt": "continue",
                },
                {"provider": "scripted", "model": "demo", "prompt": "hi", "params": {"tokens": 40, "tokens_per_s": 20}},
            ]
        },
    )

    provider: str = Field(description=f"one of {', '.join(PROVIDERS)}", max_length=64)
    model: Name = Field(description="the provider's name for the model")
    prompt: Annotated[str, BeforeValidator(_sound), StringConstraints(min_length=1)] | None = None
    messages: Annotated[list[MessageIn], Field(fail_fast=True)] | None = Field(None, min_length=1, max_length=1000)
    system: Text | None = None
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    params: Annotated[dict[str, Any], BeforeValidator(_sound), BeforeValidator(without_surplus)] = Field(
        default_factory=dict, description="the provider's own parameters, by its list"
    )
    on_interrupt: Literal["restart", "continue", "fail"] = "restart"
    priority: int = Field(5, ge=0, le=9, description="higher first, among the tenant's own")
    metadata: dict[Name, Annotated[str, BeforeValidator(_sound), StringConstraints(max_length=512)]] = Field(
        default_factory=dict, max_length=16, fail_fast=True
    )
    ttl_s: int | None = Field(None, ge=1, description="how long the job is kept after its end, in seconds")

    cancel_if_unread_s: int | None = Field(
        None, ge=5, le=86_400, description="cancel the job once nobody has read it for so many seconds"
    )

    @model_validator(mode="after")
    def _one_of(self) -> "JobIn":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("send either prompt or messages")
        return self

    def to_request(self, settings: Settings, *, faults: bool) -> JobRequest:
        """The request as it is stored. TailraceError for what a field's type cannot show.

        `faults`: whether it may ask for them.
        """
        max_ttl_s = settings.max_job_ttl_s
        if self.provider not in PROVIDERS:
            raise TailraceError(
                "unknown_provider",
                f"There is no provider {self.provider!r}; use one of {', '.join(PROVIDERS)}.",
                field="provider",
            )
        if self.ttl_s is not None and self.ttl_s > max_ttl_s:
            raise TailraceError("invalid_request", f"ttl_s: at most {max_ttl_s} here.", field="ttl_s")
        if self.provider == "scripted" and "fault" in self.params and not faults:
            raise TailraceError(
                "unsupported_param",
                "params.fault: faults on request are off here, for they can end a worker. "
                "TAILRACE_SCRIPTED_FAULTS=true turns them on.",
                field="params.fault",
            )
        messages = [Message(**message.model_dump()) for message in self.messages or []]
        return JobRequest(
            provider=self.provider,
            model=self.model,
            messages=messages or [Message("user", self.prompt)],
            system=self.system,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            params=validate_params(self.provider, self.params),
            on_interrupt=OnInterrupt(self.on_interrupt),
            priority=self.priority,
            metadata=dict(self.metadata),
            ttl_s=self.ttl_s,
            cancel_if_unread_s=self.cancel_if_unread_s,
        )


class ChatIn(StrictModel):
    """The body of POST /chat/stream."""

    message: Annotated[str, BeforeValidator(_sound), StringConstraints(min_length=1)]
    system_prompt: Text | None = None


class MessageOnlyIn(StrictModel):
    """The body of POST /chat/stream-meta and /langchain/stream."""

    message: Annotated[str, BeforeValidator(_sound), StringConstraints(min_length=1)]


class AnthropicIn(StrictModel):
    """The body of POST /anthropic/stream."""

    message: Annotated[str, BeforeValidator(_sound), StringConstraints(min_length=1)]
    system: Text | None = None


class JobOut(BaseModel):
    """A job as the API shows it."""

    id: str
    provider: str
    model: str
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    text: str | None = Field(None, description="the text so far; not in lists")
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    finish_reason: str | None
    usage: dict[str, int]
    attempt: int
    provider_calls: int = Field(description="calls to the provider, over all attempts, silent retries included")
    last_event_id: str | None = Field(None, description="the cursor after `text`; not in lists")
    error: dict[str, Any] | None
    timings: dict[str, int | float]
    metadata: dict[str, str]
    created_at: str
    finished_at: str | None
    expires_at: str | None
    events_url: str
    read_token: str | None = Field(None, description="for browsers; in the answer to a POST where there are keys")


class TokenOut(BaseModel):
    """A capability token."""

    token: str
    rights: list[Literal["read", "cancel"]]
    expires_at: str


class JobList(BaseModel):
    """A page of the caller's jobs."""

    data: list[JobOut]
    next: str | None = Field(description="`after` of the next page; None on the last. A page may be short of `limit`.")
