"""From a vendor's exception or error object to our code: one table for all vendors, without importing any of them.

What the vendor names (`code`, `type`) decides first, then the HTTP status, then the kind of the exception by the names
of its classes: Anthropic's errors in mid-stream come with status 200, OpenAI's with none, and LangChain wraps both.
Nothing that a vendor wrote reaches a client: the message is ours, and `detail` holds only identifiers.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from shared.errors import ProviderError

_BY_NAME = {
    "insufficient_quota": "provider_quota",
    "billing_hard_limit_reached": "provider_quota",
    "billing_not_active": "provider_quota",
    "billing_error": "provider_quota",
    "rate_limit_exceeded": "provider_rate_limited",
    "rate_limit_error": "provider_rate_limited",
    "invalid_api_key": "provider_auth",
    "authentication_error": "provider_auth",
    "permission_error": "provider_auth",
    "overloaded_error": "provider_unavailable",
    "api_error": "provider_unavailable",
    "server_error": "provider_unavailable",
    "conflict_error": "provider_unavailable",
    "timeout_error": "provider_timeout",
    "not_found_error": "provider_rejected",
    "model_not_found": "provider_rejected",
    "context_length_exceeded": "provider_rejected",
    "invalid_prompt": "provider_rejected",
    "invalid_image": "provider_rejected",
    "invalid_image_url": "provider_rejected",
    "image_content_policy_violation": "provider_rejected",
    "bio_policy": "provider_rejected",
    "misalignment_policy_violation": "provider_rejected",
    "data_residency_mismatch": "provider_rejected",
    "request_too_large": "provider_rejected",
}
# OpenAI says "invalid_request_error" with 401 and 404 too: it counts only where no status says more.
_VAGUE = {"invalid_request_error": "provider_rejected"}
_BY_STATUS = {
    401: "provider_auth",
    402: "provider_quota",
    403: "provider_auth",
    408: "provider_unavailable",
    409: "provider_unavailable",
    429: "provider_rate_limited",
}
# Class names, looked for along the inheritance of the exception and of its causes (httpx, httpx2, aiohttp, stdlib).
_MISCONFIGURED = {"UnsupportedProtocol", "InvalidURL", "LocalProtocolError"}
_UNREACHED = {"ConnectError", "ConnectTimeout", "PoolTimeout"}
_TIMED_OUT = {"TimeoutException", "APITimeoutError", "TimeoutError"}
_BROKEN = {"APIConnectionError", "RequestError", "OSError", "ClientError", "EndOfStream", "ClosedResourceError"}
_UNREADABLE = {"DecodingError", "JSONDecodeError", "UnicodeDecodeError"}
_ILL_FORMED = {"TypeError", "ValueError", "NotImplementedError"}


_UNKNOWN = ("provider_protocol", "")
_KNOWN = frozenset({*_BY_NAME, *_VAGUE, *map(str, range(400, 600))})


def classify(error: BaseException, *, started: bool, unknown: tuple[str, str] = _UNKNOWN) -> ProviderError:
    """The ProviderError that an exception from a vendor's SDK stands for.

    `started`: whether the response had begun. A connection that breaks before it could not be made; one that breaks
    after it was interrupted. `unknown`: (code, message) for an exception that nothing is known of. Raise the result
    `from None`: the exception's own text may hold the prompt or a key.
    """
    ours = _ours(error)
    if ours is not None:
        return ours
    status = getattr(error, "status_code", None)
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    code = _by_answer(getattr(error, "code", None), getattr(error, "type", None), status)
    detail = _detail(
        kind=type(error).__name__,
        type=getattr(error, "type", None),
        code=getattr(error, "code", None),
        status=status,
        request_id=getattr(error, "request_id", None),
    )
    if code:
        return ProviderError(code, retry_after_s=retry_after(headers), detail=detail)
    code, message = _by_kind(error, started=started) or unknown
    return ProviderError(code, message, detail=f"{detail} {_where(error)}".strip())


def reported(error: object, *, request_id: str | None = None) -> ProviderError:
    """The ProviderError for an error object inside a stream: `{"type", "code", …}`, or whatever came instead."""
    fields: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    code, kind = fields.get("code"), fields.get("type")
    # Some gateways put the HTTP status that they got into `code`.
    status = int(str(code)) if re.fullmatch(r"[45][0-9][0-9]", str(code)) else None
    found = _by_answer(code, kind, status) or "provider_interrupted"
    return ProviderError(found, detail=_detail(kind="in-stream", type=kind, code=code, request_id=request_id))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `retry-after-ms` or `retry-after` (a number or an HTTP date); None where none can be read."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * scale
        except ValueError:
            seconds = _until(value)
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def _until(date: str) -> float:
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return math.nan
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def _by_answer(code: object, kind: object, status: object) -> str | None:
    for name in (code, kind):
        if found := _BY_NAME.get(str(name)):
            return found
    if isinstance(status, int) and status >= 400:
        return _BY_STATUS.get(status) or ("provider_rejected" if status < 500 else "provider_unavailable")
    return _VAGUE.get(str(kind))


def _by_kind(error: BaseException, *, started: bool) -> tuple[str, str] | None:
    names = _class_names(error)
    if names & _MISCONFIGURED:
        return (
            "provider_not_configured",
            "The provider's base URL or key cannot be used: check the workers' environment.",
        )
    if names & _UNREACHED:
        return "provider_unavailable", ""
    if names & _TIMED_OUT:
        return "provider_timeout", ""
    if names & _UNREADABLE:
        return "provider_protocol", ""
    if names & _BROKEN:
        return ("provider_interrupted" if started else "provider_unavailable"), ""
    if not started and names & _ILL_FORMED:
        return "provider_rejected", "The model cannot be asked this way: check `messages` and `params`."
    return None


def _ours(error: BaseException) -> ProviderError | None:
    """An error of ours, which an SDK may have wrapped: what a client's guard raised (outward.py)."""
    cause: BaseException | None = error
    for _ in range(5):
        if cause is None or isinstance(cause, ProviderError):
            return cause
        cause = cause.__cause__
    return None


def _class_names(error: BaseException) -> set[str]:
    names: set[str] = set()
    cause: BaseException | None = error
    for _ in range(5):
        if cause is None:
            break
        names.update(parent.__name__ for parent in type(cause).__mro__)
        cause = cause.__cause__
    return names


def _detail(*, kind: str, status: object = None, request_id: object = None, **named: object) -> str:
    """`name=value` for what tells nothing but the kind of error. A vendor may put anything into its fields, keys and
    prompts included: only the words that we know are repeated."""
    shown = {"kind": kind, **{name: value for name, value in named.items() if str(value) in _KNOWN}}
    if isinstance(status, int):
        shown["status"] = status
    if isinstance(request_id, str) and re.fullmatch(r"req_[0-9A-Za-z]{1,40}|[0-9a-f-]{32,36}", request_id):
        shown["request_id"] = request_id  # of the response's head, and what support asks for
    return " ".join(f"{name}={value}" for name, value in shown.items())


def _where(error: BaseException) -> str:
    """The file and line that raised: enough to find a fault of ours or of a chain, and no content."""
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    return f"at={frame.tb_frame.f_code.co_filename.rpartition('/')[2]}:{frame.tb_lineno}" if frame else ""
