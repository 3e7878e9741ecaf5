"""The keys that open this node: those of its settings, and those of the store, read again whenever one changed.

Checking a key asks nobody. A key that is made or revoked counts within a moment on every node; while the store is away,
what was read last counts.
"""

import asyncio
import logging
import random
import time
from collections.abc import Collection

from api.departure import Departure
from api.tokens import key_id_in, looks_like_token, mint, read
from shared.errors import StorageError, TailraceError
from shared.jobs import JobKey
from shared.principals import MIN_KEY_CHARACTERS, OPEN, ApiKey, Principal, Right, SigningKey, digest_of, key_id_of
from shared.settings import Settings
from shared.storage.api_keys import ApiKeys

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
_LOOK_AGAIN_S = 0.25
"""A key that is not known may have been made just now: it is looked for, but not more often than this."""
_NOTE_EVERY_S = 60.0


_MEND = (
    "Make a key with `tailrace keys create TENANT` (with the same --data-dir or --redis-url), or set "
    "TAILRACE_API_KEYS=tenant:key (`openssl rand -hex 32` makes a good key) or TAILRACE_API_KEYS_FILE; or listen with "
    "--host 127.0.0.1."
)


def refuse_weak_keys(settings: Settings) -> None:
    """TailraceError where a node would listen beyond loopback with a key that can be guessed."""
    for key in settings.chosen_keys.values():
        if key.weak and not settings.on_loopback:
            raise TailraceError(
                "unauthorized",
                f"A key of {key.tenant} has less than {MIN_KEY_CHARACTERS} characters and can be guessed. {_MEND}",
            )


class Keyring:
    """Owned by the node, which keeps `run()` in its task group. `streams`: the readers at this node."""

    def __init__(self, store: ApiKeys, settings: Settings, streams: Collection[Departure] = ()) -> None:
        self._store = store
        self._streams = streams
        self._chosen = settings.chosen_keys
        self._signing: list[SigningKey] = settings.signing_keys
        self._fixed = bool(self._signing)
        self._host = settings.host
        self._may_open = settings.on_loopback
        self._made: dict[str, ApiKey] = {}
        self._version: int | None = None
        """Of what was read from the store; None before that: then the node is closed, for there may be keys."""
        self._looked_s = float("-inf")
        """When the last look began that has ended, however it ended."""
        self._looking = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._used_ms: dict[str, int] = {}
        self._ended: set[str] = set()
        """The keys, by id, that the last look found to be taken away."""

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything: there is no key, and never was. Revoking the last one opens nothing."""
        return self._may_open and not self._chosen and self._version == 0

    async def open_up(self) -> None:
        """Read the keys for the first time.

        TailraceError where the node would listen beyond loopback and there is none, as far as it can see: one without
        keys of its own does not start before its store. Any other whose store is away starts closed, and learns of
        the store's keys later.
        """
        away = ""
        try:
            await self.refresh()
        except StorageError as error:
            log.warning("keys: %s; nobody is let in by a key of the store yet", error.code)
            away = " The store, which may have some, cannot be reached."
        if not self._version and not self._chosen and not self._may_open:
            raise TailraceError(
                "unauthorized", f"Without API keys a node listens on loopback only, not on {self._host}.{away} {_MEND}"
            )

    async def principal(self, given: str) -> Principal:
        """Who asks with the key `given`; TailraceError `unauthorized` for one that opens nothing (any more)."""
        if self.is_open:
            return OPEN
        if looks_like_token(given):
            return await self._principal_by_token(given)
        key = self._find(given)
        if key is None and key_id_of(given) is not None:
            await self._look_soon()
            key = self._find(given)
        now_ms = time.time_ns() // 1_000_000
        if key is None or not key.lives(now_ms):
            raise TailraceError("unauthorized")
        if key.id in self._made:
            self._used_ms[key.id] = now_ms
        return key.principal()

    def mint(self, job: JobKey, by: Principal, rights: frozenset[Right], expires_s: int) -> str:
        """A token for one job of `by`, who can give no right that it lacks. `unavailable` before the store was read."""
        if not self._signing:
            raise StorageError("storage_unavailable", retry_after_s=LOOK_EVERY_S)
        return mint(self._signing[0], job, rights & by.rights, expires_s, by.id)

    async def _principal_by_token(self, token: str) -> Principal:
        kid = key_id_in(token)
        found = next((key for key in self._signing if key.id == kid), None)
        if found is None and kid:
            await self._look_soon()
            found = next((key for key in self._signing if key.id == kid), None)
        if found is None:
            raise TailraceError("unauthorized")
        capability = read(token, found)
        minted_by = self._made.get(capability.minted_by)
        if minted_by is not None and not minted_by.lives(time.time_ns() // 1_000_000):
            raise TailraceError("unauthorized")
        return capability.principal

    def _find(self, given: str) -> ApiKey | None:
        key_id = key_id_of(given)
        if key_id is not None and (made := self._made.get(key_id)) is not None:
            return made if made.fits(given) else None
        # By digest: nobody can steer one towards another's, so what the look-up's time tells is worth nothing.
        return self._chosen.get(digest_of(given))

    async def refresh(self) -> None:
        """Read the keys where they changed. StorageError where the store is away."""
        async with self._looking:
            began_s = time.monotonic()
            try:
                await self._read()
            finally:
                self._looked_s = began_s

    async def _read(self) -> None:
        version = await self._store.version()
        if version:
            self._may_open = False  # for good: a store that has lost its keys since must open no door
        made, signing = self._made, self._signing
        if version != self._version:
            made = {key.id: key for key in await self._store.all()}
        if not self._fixed:
            # Each time: another node may have had to make the first one again, in a store that lost it.
            signing = await self._store.signing_keys()
        revoked = _revoked(made) - _revoked(self._made)
        dropped = {key.id for key in self._signing} - {key.id for key in signing} if version else set()
        self._made, self._signing, self._version = made, signing, version
        self._end_streams(revoked, dropped)

    def _end_streams(self, revoked: set[str], dropped: set[str]) -> None:
        """A stream ends with the key that it was opened with, and with the one that signed its token."""
        before, self._ended = self._ended, revoked | dropped
        # Those of the look before, too: of a request that was let in just then the stream had not begun yet.
        if ended := before | self._ended:
            for stream in tuple(self._streams):
                stream.keys_end(ended)

    async def _look_soon(self) -> None:
        """Return after a look that began since. All who come meanwhile share it: a 401 would be the end for a reader
        whose token is good, and was only signed with a key that is a moment younger than what was read here."""
        came_s = time.monotonic()
        async with self._asking:
            if self._looked_s >= came_s:
                return
            await asyncio.sleep(self._looked_s + _LOOK_AGAIN_S - time.monotonic())
            try:
                await self.refresh()
            except TailraceError as error:
                log.warning("keys: %s", error.code)

    async def run(self) -> None:
        """Keep up with the store until cancelled."""
        noted_s = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_EVERY_S * random.uniform(0.75, 1.0))
            try:
                await self.refresh()
                if time.monotonic() - noted_s >= _NOTE_EVERY_S:
                    noted_s, used, self._used_ms = time.monotonic(), self._used_ms, {}
                    await self._store.note_used(used)
            except TailraceError as error:
                log.warning("keys: %s", error.code)
            except Exception:
                # Whatever stands in the store: those who have a key that is known must not pay for it.
                log.exception("keys")


def _revoked(keys: dict[str, ApiKey]) -> set[str]:
    return {key.id for key in keys.values() if key.revoked_ms is not None}
