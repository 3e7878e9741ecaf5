"""Capability tokens: the right to read or cancel one job for a while, for browsers, which cannot keep a secret.

JSON Web Tokens (RFC 7519), HS256 and nothing else, signed with a key that all nodes have and that can be replaced while
both verify (`kid`). A token names the key that it was minted with, and ends with it where `tailrace keys` made that.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import jwt

from shared.errors import TailraceError
from shared.jobs import JobKey
from shared.principals import Principal, Right, SigningKey

_ALGORITHM = "HS256"
_ISSUER = "tailrace"
_MAX_CHARACTERS = 1024
GRANTABLE = frozenset({Right.READ, Right.CANCEL})
"""What one job's token may carry."""


@dataclass(frozen=True, slots=True)
class Capability:
    """A token that was read: who asks with it, and the API key (by id) that it was minted with."""

    principal: Principal
    minted_by: str


def looks_like_token(given: str) -> bool:
    """Whether `given` is to be read as a token and not as an API key."""
    return given.count(".") == 2


def mint(key: SigningKey, job: JobKey, rights: frozenset[Right], expires_s: int, minted_by: str) -> str:
    """A token for one job, until `expires_s` (seconds since 1970)."""
    claims = {
        "iss": _ISSUER,
        "sub": str(job),
        "scope": " ".join(right for right in Right if right in rights & GRANTABLE),
        "exp": expires_s,
        "key": minted_by,
    }
    return jwt.encode(claims, key.secret(), _ALGORITHM, headers={"kid": key.id})


def key_id_in(token: str) -> str:
    """The `kid` that a token names, unverified; empty where it names none or is none."""
    if len(token) > _MAX_CHARACTERS:
        return ""
    try:
        found = jwt.get_unverified_header(token).get("kid", "")
    except (jwt.PyJWTError, ValueError):
        return ""
    return found if isinstance(found, str) else ""


def read(token: str, key: SigningKey) -> Capability:
    """What a token carries. TailraceError: `token_expired` for one that was good once, `unauthorized` for any other."""
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.secret(),
            algorithms=[_ALGORITHM],
            issuer=_ISSUER,
            options={"require": ["exp", "sub", "scope", "key"]},
        )
        job = JobKey.parse(claims["sub"])
        rights = frozenset(map(Right, claims["scope"].split()))
    except jwt.ExpiredSignatureError:
        raise TailraceError("token_expired") from None
    except (jwt.PyJWTError, ValueError, AttributeError):
        raise TailraceError("unauthorized") from None
    # Limits count by the key that stands behind the token, or each token would have limits of its own.
    principal = Principal(job.tenant, rights & GRANTABLE, claims["key"], job.id, float(claims["exp"]), key.id)
    return Capability(principal, claims["key"])


def expiry(by: Principal, deadline_ms: int, ttl_s: float | None, slack_s: float) -> int:
    """When a token ends, seconds since 1970: `slack_s` after the job's deadline (after now, where that has passed), or
    after `ttl_s`, or with the key that it is minted with, where that is sooner."""
    now_s = time.time()
    ends_s = [max(deadline_ms / 1000, now_s) + slack_s]
    if ttl_s is not None:
        ends_s.append(now_s + ttl_s)
    if by.expires_s is not None:
        ends_s.append(math.floor(by.expires_s))
    return round(min(ends_s))
