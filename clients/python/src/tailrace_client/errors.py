"""What can go wrong between this client and the server: one root, one class for each thing a caller can do about it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any


class TailraceError(Exception):
    """The root of everything that this library raises on purpose."""


class UnreachableError(TailraceError):
    """No contact for longer than the caller's patience. The job itself is not affected: come back with the cursor."""


class BrokenStreamError(TailraceError):
    """The server answers, but what it sends is not a whole log, also after reading it again from the cursor."""


class ApiError(TailraceError):
    """The server refused. Source: RFC 9457 problem documents (`application/problem+json`).

    `code`: the stable code, or `http_<status>` where something in between answered. `status`: the HTTP status.
    `field`: the input at fault, or None. `retry_after`: seconds, or None.
    """

    def __init__(
        self, status: int, code: str, message: str, *, field: str | None = None, retry_after: float | None = None
    ) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.retry_after = retry_after
        self.repeated = False
        """Whether an earlier try of the same call got no answer, or a passing refusal: it may have been carried out."""
        where = f" (field {field})" if field and field not in message else ""
        super().__init__(f"{status} {code}: {message}{where}")

    @property
    def passing(self) -> bool:
        """Whether the same request may be answered later: 408, 425, 429 and 5xx."""
        return self.status in {408, 425, 429} or self.status >= 500


class InvalidRequestError(ApiError):
    """400, 405, 413, 415, 422: the request is at fault; `field` names the input where there is one."""


class UnauthorizedError(ApiError):
    """401, 403: no valid API key, or a token that has ended."""


class NotFoundError(ApiError):
    """404: no such job, or one of another tenant."""


class ConflictError(ApiError):
    """409: the Idempotency-Key was used with another body."""


class GoneError(ApiError):
    """410: the job has expired or was deleted."""


class BusyError(ApiError):
    """429: too many jobs are waiting; `retry_after` says when to come back."""


class UnavailableError(ApiError):
    """5xx: the service is at fault, or not there."""


_BY_STATUS: dict[int, type[ApiError]] = {
    **dict.fromkeys((400, 405, 413, 415, 422), InvalidRequestError),
    **dict.fromkeys((401, 403), UnauthorizedError),
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    429: BusyError,
}


def api_error(status: int, headers: Mapping[str, str], problem: Any) -> ApiError:
    """The typed error for an answer. `problem` is the decoded body: anything at all, a dict where it was a problem."""
    body: dict[str, Any] = problem if isinstance(problem, dict) else {}
    kind = _BY_STATUS.get(status, UnavailableError if status >= 500 else ApiError)
    message = body.get("detail") or body.get("message") or body.get("title") or "the server gave no reason"
    field = body.get("field")
    return kind(
        status,
        str(body.get("code") or f"http_{status}"),
        str(message),
        field=str(field) if field else None,
        retry_after=_seconds(headers.get("retry-after")),
    )


def _seconds(value: str | None) -> float | None:
    """`Retry-After` in seconds: RFC 9110 allows a number or a date."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    # RFC 9110 dates are in GMT; one that names no zone comes back without one.
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
