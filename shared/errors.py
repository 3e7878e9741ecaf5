"""The error taxonomy: every code a client can meet, its HTTP status, whether to retry, and what to do about it.

A code is either a *problem* (an HTTP answer, RFC 9457) or a *failure* (the `code` of a `failed` event);
some are both. Codes are part of the contract: they are added, never renamed. The text that a client sees is
always ours; a provider's own words go nowhere, for they may hold the prompt or a key.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """One stable error code. `status` is the HTTP status where it is answered as a problem."""

    code: str
    status: int
    retryable: bool
    title: str
    advice: str


def _table(*rows: tuple[str, int, bool, str, str]) -> dict[str, Code]:
    return {row[0]: Code(*row) for row in rows}


CODES: dict[str, Code] = _table(
    # The request is at fault.
    ("invalid_request", 400, False, "The request is not valid", "Mend the named field and send it again."),
    ("invalid_json", 400, False, "The body is not JSON", "Send one JSON object, UTF-8 encoded."),
    ("invalid_cursor", 400, False, "The cursor is not an event id", "Send `<epoch>-<seq>`, or nothing to start over."),
    ("invalid_dialect", 400, False, "Unknown dialect", "Use one of the dialects that PROTOCOL.md lists."),
    ("unknown_provider", 400, False, "Unknown provider", "Use one of the providers named in the message."),
    ("unsupported_param", 400, False, "A parameter is not on the provider's list", "Leave the named parameter out."),
    ("unauthorized", 401, False, "No valid API key", "Send `Authorization: Bearer <key>`."),
    ("token_expired", 401, False, "The token has ended", "Get a new one and go on from the last event id."),
    ("forbidden", 403, False, "The key or token may not do this", "Use one that was made with the right it lacks."),
    ("not_found", 404, False, "No such job", "Check the id; a job of another tenant is not found either."),
    ("no_such_route", 404, False, "No such route", "See /docs for what there is."),
    ("method_not_allowed", 405, False, "Method not allowed", "See /docs for the methods of this route."),
    ("idempotency_conflict", 409, False, "This Idempotency-Key was used with another body", "Use a new key."),
    ("gone", 410, False, "The job has expired or was deleted", "Submit it again under a new Idempotency-Key."),
    ("request_timeout", 408, True, "The body did not come in time", "Send it again, faster."),
    ("payload_too_large", 413, False, "The body is too large", "Shorten it to the limit in the message."),
    ("unsupported_media_type", 415, False, "The body is not JSON", "Send `Content-Type: application/json`."),
    # A limit of this key or tenant.
    ("rate_limited", 429, True, "Too many requests", "Try again after `Retry-After` seconds."),
    ("too_many_jobs", 429, True, "Too many jobs of this tenant have not ended", "Wait until some of them have ended."),
    ("budget_spent", 429, True, "This tenant has no tokens left today", "Try again after `Retry-After` seconds."),
    ("too_many_readers", 429, True, "Newer readers took this one's place", "Read fewer streams at once with one key."),
    ("head_too_large", 431, False, "The head is too large", "Shorten the URL and the headers."),
    # The service is at fault, or busy.
    ("queue_full", 429, True, "Too many jobs are waiting", "Try again after `Retry-After` seconds."),
    ("internal", 500, True, "Something broke on our side", "Try again; name the request id when you report it."),
    ("storage_unavailable", 503, True, "The store cannot be reached", "Try again after `Retry-After` seconds."),
    ("storage_full", 503, True, "The store has no memory left", "Try again after `Retry-After` seconds."),
    ("overloaded", 503, True, "Too much work is waiting", "Try again after `Retry-After` seconds."),
    ("draining", 503, True, "This node is shutting down", "Try again; another node answers."),
    ("node_full", 503, True, "The node has too many connections", "Try again after `Retry-After` seconds."),
    ("unavailable", 503, True, "No API node answers", "Try again after `Retry-After` seconds."),
    # Why a generation failed: the provider or the way to it.
    ("provider_not_configured", 500, False, "The provider has no API key", "Set the variable named in the message."),
    ("provider_auth", 502, False, "The provider refused the API key", "Check the key in the workers' environment."),
    ("provider_rejected", 502, False, "The provider refused the request", "Check model and parameters."),
    ("provider_quota", 502, False, "The provider account has no quota left", "Check the account with the provider."),
    ("provider_rate_limited", 502, True, "The provider is limiting our rate", "Try again later."),
    ("provider_unavailable", 502, True, "The provider cannot be reached or is overloaded", "Try again later."),
    ("provider_timeout", 504, True, "The provider did not answer in time", "Try again, or raise the time-out."),
    ("provider_interrupted", 502, True, "The provider broke off in the middle", "Try again."),
    ("provider_protocol", 502, True, "The provider sent something unreadable", "Try again; report it if it persists."),
    ("empty_output", 502, True, "The provider ended without any output", "Try again, or change the prompt."),
    # Why a generation failed: the service.
    ("deadline_exceeded", 504, True, "The job did not end before its deadline", "Submit it again."),
    ("worker_lost", 500, True, "The worker was lost and the job was not to be restarted", "Submit it again."),
    ("poisoned", 500, False, "The job took its worker down three times", "Change the request; report it."),
    ("attempts_exhausted", 500, True, "The job was started too often", "Submit it again later."),
    ("output_too_large", 500, False, "The answer grew beyond the limit", "Ask for less, or set `max_tokens`."),
    ("log_lost", 500, True, "The log of this job is gone", "Submit it again."),
    ("interrupted", 500, True, "The answer was restarted and this dialect cannot say so", "Read the job again."),
)


class TailraceError(Exception):
    """The one root of our errors. `message` is safe to show to a client; `field` names the input at fault.

    `retry_after_s` is a hint in seconds for `Retry-After`, None where there is nothing to wait for.
    """

    def __init__(
        self, code: str, message: str = "", *, field: str | None = None, retry_after_s: float | None = None
    ) -> None:
        self.kind = CODES[code]
        self.message = message or f"{self.kind.title}. {self.kind.advice}"
        self.field = field
        self.retry_after_s = retry_after_s
        super().__init__(f"{code}: {self.message}")

    @property
    def code(self) -> str:
        """The stable code."""
        return self.kind.code


class ProviderError(TailraceError):
    """A provider broke or refused. `detail` is for our log alone: codes and places, in no one's words but ours."""

    def __init__(self, code: str, message: str = "", *, retry_after_s: float | None = None, detail: str = "") -> None:
        super().__init__(code, message, retry_after_s=retry_after_s)
        self.detail = detail

    @property
    def retryable(self) -> bool:
        """Whether a new call may end better."""
        return self.kind.retryable


class StorageError(TailraceError):
    """Redis/Valkey could not be reached, did not answer in time, or refused for want of memory."""


class RecordError(TailraceError):
    """A job's record is damaged: a server-side script cannot work with it. It concerns this one job, not the store."""

    def __init__(self) -> None:
        super().__init__("internal", "The job's record in the store is damaged. Submit it again under a new key.")


class SealedError(StorageError):
    """What is stored was sealed under a key that this process has not. It concerns what that key has sealed, not the
    store, and another process, or this one with its whole ring of keys, can read it. `kid`: the key's name."""

    def __init__(self, kid: str) -> None:
        super().__init__(
            "storage_unavailable", "What is stored cannot be opened here now. Try again later.", retry_after_s=5
        )
        self.kid = kid if kid.isascii() and kid.isprintable() and len(kid) <= 16 else "?"
        self.args = (f"sealed under the key {self.kid!r}, which is not among TAILRACE_ENCRYPTION_KEYS here",)
