"""Sealing text at rest: a ring of keys, AES-256-GCM, and a key of its own for each job. Pure: no store, no settings.

A sealed value is `<kid>.<base64 of nonce, ciphertext and tag>`. The first key of the ring seals, all of them open. Each
job's key is derived from the ring's by HKDF with `tenant/job`: no value can be moved to another job, and the bound of
2^32 random nonces a key is one of a job and not of the installation. The place of a value (its event's id and field, or
the name of the record's field) is bound to it as well: within a job, too, nothing can change places.
"""

import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from shared.errors import RecordError, SealedError
from shared.ring import KEY_BYTES, RingKey

NONCE_BYTES = 12
JOBS_KEPT = 2048
"""Derived keys kept in memory, of a few hundred bytes each: to derive one costs as much as sealing ten tokens."""

_JOB = b"tailrace 1 job "
_FINGERPRINT = b"tailrace 1 fingerprint"


class Vault:
    """Seals and opens. One for a process; may be used from several threads."""

    def __init__(self, ring: Sequence[RingKey]) -> None:
        """`ring`: at least one key."""
        self._ring = {key.id: key.secret for key in ring}
        self._first = ring[0].id
        self._cipher = lru_cache(maxsize=JOBS_KEPT)(self._derived)
        self._keyed = lru_cache(maxsize=None)(self._fingerprint_key)

    def seal(self, job: str, place: str, value: bytes) -> str:
        """`value` of `job` (`tenant/job`), to be opened under the same `place` alone."""
        # Random, and not counted: a counter would have to survive every crash and failover, in which tokens are
        # appended anew under the ids that they had; two texts under one nonce would give away both.
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher(self._first, job).encrypt(nonce, value, place.encode())
        return f"{self._first}.{b64encode(nonce + sealed).decode()}"

    def open(self, job: str, place: str, sealed: str) -> bytes:
        """What was sealed. SealedError where the ring lacks its key, RecordError where it is not what was sealed
        there."""
        kid, _, body = sealed.partition(".")
        if kid not in self._ring:
            raise SealedError(kid)
        try:
            raw = b64decode(body, validate=True)
            return self._cipher(kid, job).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], place.encode())
        except (ValueError, InvalidTag):
            raise RecordError from None

    def fingerprint(self, value: bytes, like: str = "") -> str:
        """A hash of `value` that nobody can make, or try guesses with, without the ring; `like`: an earlier one, to be
        compared with. SealedError where the ring lacks that one's key. One from before there was a ring has none."""
        if like and "." not in like:
            return hashlib.sha256(value).hexdigest()
        kid = like.partition(".")[0] or self._first
        if kid not in self._ring:
            raise SealedError(kid)
        return f"{kid}.{hmac.digest(self._keyed(kid), value, 'sha256').hex()}"

    def _derived(self, kid: str, job: str) -> AESGCM:
        return AESGCM(self._expanded(kid, _JOB + job.encode()))

    def _fingerprint_key(self, kid: str) -> bytes:
        return self._expanded(kid, _FINGERPRINT)

    def _expanded(self, kid: str, info: bytes) -> bytes:
        # The ring's keys are 256 random bits already: of HKDF they need the second half alone (RFC 5869 §3.3).
        return HKDFExpand(SHA256(), KEY_BYTES, info).derive(self._ring[kid])
