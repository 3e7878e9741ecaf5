"""The ring of keys that stored text is sealed with: what a key is, and how a ring is written down."""

import binascii
import re
from base64 import b64decode
from dataclasses import dataclass, field

KEY_BYTES = 32

_KID = re.compile(r"[A-Za-z0-9_-]{1,16}")


@dataclass(frozen=True, slots=True)
class RingKey:
    """A key of the ring. `id` stands before each value that it sealed: short names make short logs."""

    id: str
    secret: bytes = field(repr=False)


def parse_ring(text: str, where: str) -> list[RingKey]:
    """From `kid:base64key`, several with commas or line ends between; `#` begins a comment line. The first one seals.

    ValueError, which never shows a key, for what is not that; `where` names the setting or the file.
    """
    ring: list[RingKey] = []
    lines = (line.strip() for line in text.splitlines())
    for part in (piece.strip() for line in lines if not line.startswith("#") for piece in line.split(",")):
        if not part:
            continue
        kid, _, encoded = part.partition(":")
        try:
            secret = b64decode(encoded, validate=True)
        except (ValueError, binascii.Error):
            secret = b""
        if not _KID.fullmatch(kid) or len(secret) != KEY_BYTES:
            raise ValueError(
                f"{where} is kid:key,kid:key; a kid is up to 16 letters, digits, - and _, a key 32 bytes in base64 "
                "(`openssl rand -base64 32`)"
            )
        if kid in {key.id for key in ring}:
            raise ValueError(f"{where} names the kid {kid} twice")
        ring.append(RingKey(kid, secret))
    return ring
