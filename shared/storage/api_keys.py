"""API keys and signing keys in the control store: made and taken away by `tailrace keys`, read by every API node."""

import logging
import time
from typing import Any, TypeVar

import msgspec

from shared.principals import ApiKey, SigningKey, new_signing_key
from shared.storage import keys
from shared.storage.connect import Redis, sound, storage_errors
from shared.storage.sending import exchange, together

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ApiKey)
_signing_decoder = msgspec.json.Decoder(SigningKey)

Command = tuple[Any, ...]


class ApiKeys:
    """All methods raise StorageError where the control store cannot be reached."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def add(self, key: ApiKey) -> None:
        """Store a key; it opens doors within a moment."""
        await self._change(("HSET", keys.API_KEYS, key.id, _text(key)))

    async def revoke(self, key_id: str, now_ms: int) -> ApiKey | None:
        """Let a key open nothing any more; the key as it is then, None where there is none of this id.

        It stays on the list, for whoever finds it in an old configuration; revoking twice is as good as once.
        """
        stored = await self._ask("HGET", keys.API_KEYS, key_id)
        if stored is None:
            return None
        key = _decoder.decode(stored)
        if key.revoked_ms is None:
            key = msgspec.structs.replace(key, revoked_ms=now_ms)
            await self.add(key)
        return key

    async def version(self) -> int:
        """A number that rises with every change; 0 where there never was a key."""
        return int(await self._ask("GET", keys.API_KEYS_VERSION) or 0)

    async def all(self) -> list[ApiKey]:
        """Every key that can be read, revoked and expired ones too, oldest first."""
        rows = await self._ask("HVALS", keys.API_KEYS)
        return sorted(_readable(rows, _decoder), key=lambda key: (key.created_ms, key.id))

    async def signing_keys(self) -> list[SigningKey]:
        """What tokens are signed with, the newest first; the first one is made where there is none."""
        rows = await self._ask("HVALS", keys.SIGNING_KEYS)
        if not rows:
            # Of nodes that start together one makes it, under a name that all of them try.
            made = new_signing_key(time.time_ns() // 1_000_000)
            await self._ask("HSETNX", keys.SIGNING_KEYS, "first", _text(made))
            rows = await self._ask("HVALS", keys.SIGNING_KEYS)
        return sorted(_readable(rows, _signing_decoder), key=lambda key: (key.created_ms, key.id), reverse=True)

    async def rotate(self, now_ms: int, keep_ms: int, *, drop_old: bool = False) -> SigningKey:
        """Sign with a new key from now on. Those before it verify on, and go with the first rotation that comes more
        than `keep_ms` after they were replaced; or at once with `drop_old`, for one that others have got hold of."""
        rows = _pairs(await self._ask("HGETALL", keys.SIGNING_KEYS))
        created = {name: _signing_decoder.decode(row).created_ms for name, row in rows.items()}
        newest_ms = max(created.values(), default=0)
        # All but the newest were replaced by then at the latest.
        old = [name for name, ms in created.items() if drop_old or ms < newest_ms < now_ms - keep_ms]
        made = new_signing_key(max(now_ms, newest_ms + 1))  # the youngest, whatever another operator's clock has said
        commands: list[Command] = [("HDEL", keys.SIGNING_KEYS, *old)] if old else []
        await self._change(*commands, ("HSET", keys.SIGNING_KEYS, made.id, _text(made)))
        return made

    async def note_used(self, used_ms: dict[str, int]) -> None:
        """Note when keys (by id) were used last."""
        if used_ms:
            await self._ask("HSET", keys.API_KEYS_USED, *(part for pair in used_ms.items() for part in pair))

    async def last_used(self) -> dict[str, int]:
        """Key id → when it was used last (ms since 1970), to the minute."""
        return {key_id: int(ms) for key_id, ms in _pairs(await self._ask("HGETALL", keys.API_KEYS_USED)).items()}

    async def _ask(self, *command: Any) -> Any:
        with storage_errors():
            (answer,) = await exchange(self._redis, [command])
            return sound(answer)

    async def _change(self, *commands: Command) -> None:
        with storage_errors():
            await together(self._redis, [*commands, ("INCR", keys.API_KEYS_VERSION)])


def _text(key: ApiKey | SigningKey) -> str:
    return _encoder.encode(key).decode()


def _readable(rows: list[str], decoder: "msgspec.json.Decoder[_T]") -> list[_T]:
    """What the rows hold. One that is damaged, or that only a newer process understands, opens nothing here, and must
    not take the others with it."""
    found = []
    for row in rows:
        try:
            found.append(decoder.decode(row))
        except msgspec.DecodeError:
            log.error("keys: one of the store cannot be read, and opens nothing")  # noqa: TRY400 - a trace may show it
    return found


def _pairs(answer: Any) -> dict[str, str]:
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
