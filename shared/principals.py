"""Who asks, and what for: principals, their rights, and what an API key is made of."""

import hashlib
import hmac
import re
import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass
from enum import StrEnum

import msgspec

TENANT = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9_-]{1,64}")
"""It becomes part of keys in the store."""
_SECRET_BYTES = 32
_WRITTEN = re.compile(r"tr_(?P<id>[a-z2-7]{12})_(?P<secret>[A-Za-z0-9_-]{43})")
MIN_KEY_CHARACTERS = 22
"""What 128 random bits take in base64: a key of fewer characters can be guessed."""


_NO_KEY = "is set and holds no key, and without keys everybody could do everything. Give it one, or leave it out."
MIN_SIGNING_CHARACTERS = 32
"""A secret for HS256 is at least as long as its digest (RFC 7518 §3.2)."""


class Right(StrEnum):
    """What a key or token may be used for."""

    SUBMIT = "submit"
    READ = "read"
    CANCEL = "cancel"
    """Also to delete: both end a job for good."""
    ADMIN = "admin"
    """The node's own affairs: its metrics. It stands for none of the others."""


ALL_RIGHTS = frozenset(Right)
OPEN_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `id`: its API key, which limits count by and a log may name.

    `job_id`: the only job that it may touch. `expires_s`: when its leave ends, seconds since 1970. `signed_with`: the
    signing key of its token.
    """

    tenant: str
    rights: frozenset[Right]
    id: str
    job_id: str | None = None
    expires_s: float | None = None
    signed_with: str | None = None

    def may(self, right: Right) -> bool:
        """Whether it has the right."""
        return right in self.rights


OPEN = Principal(OPEN_TENANT, ALL_RIGHTS, "open")
"""Everybody, on a node without keys."""


class ApiKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """An API key as it is stored: without its secret. Times in ms since 1970."""

    id: str
    tenant: str
    digest: str
    """SHA-256 of the whole key, hex. The secret has 256 random bits: no salt and no slow hash can add to that."""
    rights: tuple[Right, ...]
    created_ms: int
    label: str = ""
    expires_ms: int | None = None
    revoked_ms: int | None = None
    weak: bool = False
    """Thought up by somebody, and short enough to be guessed."""

    def lives(self, now_ms: int) -> bool:
        """Whether it opens anything at `now_ms`."""
        return self.revoked_ms is None and (self.expires_ms is None or now_ms < self.expires_ms)

    def fits(self, given: str) -> bool:
        """Whether `given` is this key; takes the same time whatever it is."""
        return hmac.compare_digest(self.digest, digest_of(given))

    def principal(self) -> Principal:
        """Who asks with it."""
        return Principal(self.tenant, frozenset(self.rights), self.id, expires_s=self.expires_s)

    @property
    def expires_s(self) -> float | None:
        """When it ends, seconds since 1970."""
        return None if self.expires_ms is None else self.expires_ms / 1000


class SigningKey(msgspec.Struct, frozen=True):
    """What capability tokens are signed with. `id`: the `kid` in them. `encoded`: the secret, base64."""

    id: str
    encoded: str
    created_ms: int

    def secret(self) -> bytes:
        """The bytes to sign with."""
        return b64decode(self.encoded)


def new_signing_key(now_ms: int) -> SigningKey:
    """A fresh one of 256 random bits."""
    return SigningKey(secrets.token_hex(6), b64encode(secrets.token_bytes(32)).decode(), now_ms)


def parse_signing_keys(text: str, where: str) -> list[SigningKey]:
    """From `kid:secret,kid:secret`, the first signs. ValueError, which shows no secret, for what is not that."""
    found: list[SigningKey] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        kid, _, secret = part.partition(":")
        if not TENANT.fullmatch(kid) or len(secret) < MIN_SIGNING_CHARACTERS:
            raise ValueError(
                f"{where} is kid:secret,kid:secret; a kid is letters and digits, a secret at least "
                f"{MIN_SIGNING_CHARACTERS} characters (`openssl rand -hex 32`)"
            )
        if kid in {key.id for key in found}:
            raise ValueError(f"{where} names the kid {kid} twice")
        found.append(SigningKey(kid, b64encode(secret.encode()).decode(), 0))
    return found


def digest_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key(
    tenant: str, rights: frozenset[Right], now_ms: int, *, label: str = "", expires_ms: int | None = None
) -> tuple[str, ApiKey]:
    """A fresh key, as its holder gets it once (`tr_<id>_<secret>`), and as it is stored."""
    key_id = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(12))
    written = f"tr_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    ordered = tuple(right for right in Right if right in rights)
    return written, ApiKey(key_id, tenant, digest_of(written), ordered, now_ms, label, expires_ms)


def key_id_of(given: str) -> str | None:
    """The id in a key that was made by `new_key`; None for anything else."""
    found = _WRITTEN.fullmatch(given)
    return found["id"] if found else None


def chosen_key(tenant: str, key: str) -> ApiKey:
    """A key that an operator thought up and wrote into a setting or a file: all rights, for ever."""
    digest = digest_of(key)
    return ApiKey(f"set-{digest[:12]}", tenant, digest, tuple(Right), 0, weak=len(key) < MIN_KEY_CHARACTERS)


def parse_chosen(text: str, where: str) -> dict[str, ApiKey]:
    """Digest → key from `tenant:key`, several with commas or line ends between; `#` begins a comment line.

    ValueError, which never shows a key, for what is not that; `where` names the setting or the file.
    """
    table: dict[str, ApiKey] = {}
    lines = (line.strip() for line in text.splitlines())
    for part in (piece.strip() for line in lines if not line.startswith("#") for piece in line.split(",")):
        if not part:
            continue
        tenant, mark, key = part.partition(":")
        if not mark or not key or not TENANT.fullmatch(tenant):
            raise ValueError(f"{where} is tenant:key,tenant:key; a tenant is up to 64 letters, digits, - and _")
        if key.count(".") == 2:
            raise ValueError(f"{where}: a key with two dots would be read as a capability token; choose another")
        made = chosen_key(tenant, key)
        if table.setdefault(made.digest, made).tenant != tenant:
            raise ValueError(f"{where} gives one key to two tenants")
    if text and not table:
        raise ValueError(f"{where} {_NO_KEY}")
    return table
