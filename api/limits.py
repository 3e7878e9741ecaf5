"""The limits of whoever asks: leave to ask at all, and how large a job may be. What a refusal says, too.

Readers of events are never told to wait, for EventSource would give up on any answer but 200: they have a bucket of
their own, which all readers that a key may have can drain at once, and are closed without an answer beyond it.
"""

import math
import time
from collections.abc import Callable

import msgspec
from starlette.types import Scope

from api.connection import CloseWithoutAnswerError
from api.permits import Bucket, Permits, Verdict
from shared import metrics
from shared.errors import TailraceError
from shared.jobs import JobRequest
from shared.limits import NONE, Limits, LimitTable
from shared.principals import Principal
from shared.settings import Settings
from shared.storage.limits import LimitStore

QUOTA = "tailrace.quota"
"""In the scope: what the answer tells of the caller's requests, as headers; also, that this request was counted."""
QUOTA_HEADERS = ("RateLimit-Policy", "RateLimit")
_A_TOKENS_PART = 10
"""A tenth of what the key may ask; a page asks once in a while."""
_MOST_TOKENS = 10_000
_FAILED_MOST_S = 2.0
"""A burst of failed authentications, in seconds of their rate: a fleet whose key was just revoked."""


class Limiter:
    """One for a node. `keyed`: whether the installation has keys by now."""

    def __init__(
        self, settings: Settings, table: LimitTable, store: LimitStore, keyed: Callable[[], bool], patience_s: float
    ) -> None:
        self._table = table
        self._store = store
        self._keyed = keyed
        self._patience_s = patience_s
        self._permits: dict[tuple[str, float, int], Permits] = {}
        self._of_tokens: dict[str, Bucket] = {}
        rate = settings.failed_auth_per_s
        self._failed = Bucket(rate, rate * _FAILED_MOST_S, time.monotonic) if rate else None

    def of(self, principal: Principal) -> Limits:
        """The limits of a principal."""
        return self._table.of(principal.tenant, keyed=self._keyed())

    async def let_pass(self, principal: Principal, scope: Scope) -> None:
        """Nothing, once for a request; TailraceError `rate_limited`, or a reader's connection closed, beyond the limit.

        Also where the store is away: see Permits.
        """
        limits = self.of(principal)
        if not limits.requests_per_s or QUOTA in scope:
            return
        scope[QUOTA] = ()
        reads, verdict = _reads_events(scope), self._by_token(principal, limits)
        if verdict is None or verdict.passed:
            verdict = await self._permits_of(principal, limits, reads=reads).take()
        if not reads:
            scope[QUOTA] = _quota(verdict, limits)
        if verdict.passed:
            return
        metrics.REFUSALS.labels("requests").inc()
        if reads:
            raise CloseWithoutAnswerError
        raise TailraceError(
            "rate_limited",
            f"This key may ask {limits.requests_per_s:g} times a second, and {limits.request_burst} times at once.",
            retry_after_s=verdict.wait_s,
        )

    def failed(self, scope: Scope) -> None:
        """Somebody came without a valid key; TailraceError `rate_limited` where too many have, a reader's connection
        closed.

        Only those: whoever has one is not kept out by those who have none.
        """
        if self._failed is not None and not (verdict := self._failed.take()).passed:
            metrics.REFUSALS.labels("failed_auth").inc()
            if _reads_events(scope):
                raise CloseWithoutAnswerError
            raise TailraceError(
                "rate_limited", "Too many requests come here without a valid key.", retry_after_s=verdict.wait_s
            )

    def _by_token(self, principal: Principal, limits: Limits) -> Verdict | None:
        """A part of the limit for all who hold tokens of one job, at this node: a page that runs wild must not take the
        others' share."""
        if principal.job_id is None:
            return None
        name = f"{principal.id}/{principal.job_id}"
        bucket = self._of_tokens.pop(name, None)
        if bucket is None:
            per_s, burst = limits.requests_per_s / _A_TOKENS_PART, limits.request_burst / _A_TOKENS_PART
            bucket = Bucket(per_s, max(burst, limits.readers_per_job), time.monotonic)
        self._of_tokens[name] = bucket  # as the youngest
        if len(self._of_tokens) > _MOST_TOKENS:
            del self._of_tokens[next(iter(self._of_tokens))]
        return bucket.take()

    def _permits_of(self, principal: Principal, limits: Limits, *, reads: bool) -> Permits:
        # As many as there are keys, thrice: nobody can make more of them by asking.
        name, per_s, burst = principal.id, limits.requests_per_s, limits.request_burst
        if reads:
            name, burst = f"{name}:events", max(burst, limits.readers)
        elif principal.job_id is not None:
            name = f"{name}:tokens"  # whoever holds one must not keep the key itself out
        made = self._permits.get((name, per_s, burst))
        if made is None:
            made = Permits(self._store, name, per_s, burst, time.monotonic, self._patience_s)
            self._permits[name, per_s, burst] = made
        return made


def _reads_events(scope: Scope) -> bool:
    method, path = scope["method"], scope["path"]
    return bool(method == "GET" and path.endswith("/events"))


def _quota(verdict: Verdict, limits: Limits) -> tuple[tuple[str, str], ...]:
    """The headers of draft-ietf-httpapi-ratelimit-headers-10: the policy, and what is left of it for how long."""
    burst, per_s = limits.request_burst, limits.requests_per_s
    full_s = math.ceil((burst - verdict.left) / per_s)
    policy = f'"requests";q={burst};w={max(1, math.ceil(burst / per_s))}'
    return tuple(zip(QUOTA_HEADERS, (policy, f'"requests";r={min(burst, verdict.left)};t={full_s}'), strict=True))


def within(limits: Limits, request: JobRequest, chains: frozenset[str]) -> JobRequest:
    """The request as it may be made: with the cap as its `max_tokens` where it names none.

    TailraceError `invalid_request` where it asks for more, `payload_too_large` where its prompt is too long. `chains`:
    the models that are chains of LangChain, which set their own.
    """
    if limits is NONE:
        return request
    if limits.prompt_bytes and _prompt_bytes(request) > limits.prompt_bytes:
        raise TailraceError(
            "payload_too_large",
            f"messages and system are larger than the {limits.prompt_bytes} bytes that this key may send.",
        )
    if not limits.max_tokens:
        return request
    other = request.params.get("max_completion_tokens")
    for field, asked in (("max_tokens", request.max_tokens), ("params.max_completion_tokens", other)):
        if asked is not None and asked > limits.max_tokens:
            raise TailraceError("invalid_request", f"{field}: at most {limits.max_tokens} for this key.", field=field)
    if request.max_tokens is not None or other is not None:
        return request
    if request.provider == "langchain" and request.model in chains:
        return request
    return msgspec.structs.replace(request, max_tokens=limits.max_tokens)


def _prompt_bytes(request: JobRequest) -> int:
    return len(msgspec.json.encode(request.messages)) + len((request.system or "").encode())
