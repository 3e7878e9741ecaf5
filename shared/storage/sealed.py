"""Values as the store has them: as they are, or sealed (shared/vault.py). Which of the two is chosen once, at the
start.

Sealed is what holds a user's or a model's text: the job's request, and the log's tokens, reasoning, tool calls and
resets, compact or not. In a log the field says so by a `!` before the event's letter, in a record the value itself,
where JSON would begin otherwise. Ids, states, times, counts and our own words stay as they are: scripts work with them.
"""

import hashlib
import logging
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from shared.errors import SealedError
from shared.events import SEALED, Event, encode
from shared.jobs import JobKey
from shared.settings import Settings
from shared.storage.keys import JobKeys, job_of
from shared.storage.merged import MERGED, RawEntries, Row

if TYPE_CHECKING:
    from shared.vault import Vault

log = logging.getLogger(__name__)

_TEXTS = frozenset("trcx")
"""The letters of the events that hold text."""
_REQUEST = "request"
_MOST_TOLD = 64
_told: set[str] = set()


def tell(job: JobKey, error: SealedError) -> None:
    """Say in the log, once for each key, that something cannot be opened here: readers try again and again."""
    if error.kid not in _told and len(_told) < _MOST_TOLD:
        _told.add(error.kid)
        log.error("job %s: %s", job, error)


class Values(Protocol):
    """How values go into the log store, and come out. `keys`: those of the job that they belong to.

    What comes out raises SealedError where it was sealed under a key that this process has not, RecordError where it is
    not what went in there.
    """

    def events(self, keys: JobKeys, epoch: int, first_seq: int, events: Sequence[Event]) -> list[str]:
        """Fields and values, in turn, of events that become `<epoch>-<first_seq>`…"""

    def rows(self, keys: JobKeys, rows: list[Row]) -> list[Row]:
        """Rows of a compact form as they are to be stored."""

    def opened(self, keys: JobKeys, raw: RawEntries) -> RawEntries:
        """Entries as they were before they were stored."""

    def request(self, keys: JobKeys, request: str) -> str:
        """A job's request as it is to be stored."""

    def opened_request(self, keys: JobKeys, stored: str) -> str:
        """A job's request as it was."""

    def fingerprint(self, body: bytes, like: str = "") -> str:
        """A hash of a request's body, comparable with the earlier one `like`. SealedError where its key lacks."""


class PlainValues:
    """As they are: nothing is sealed here. What was sealed elsewhere is refused, and never taken for text."""

    def events(self, keys: JobKeys, epoch: int, first_seq: int, events: Sequence[Event]) -> list[str]:
        """See Values."""
        pairs: list[str] = []
        for event in events:
            pairs += encode(event)
        return pairs

    def rows(self, keys: JobKeys, rows: list[Row]) -> list[Row]:
        """See Values."""
        return rows

    def opened(self, keys: JobKeys, raw: RawEntries) -> RawEntries:
        """See Values. Sealed entries are refused where they are decoded, which costs the others nothing."""
        return raw

    def request(self, keys: JobKeys, request: str) -> str:
        """See Values."""
        return request

    def opened_request(self, keys: JobKeys, stored: str) -> str:
        """See Values."""
        if stored.startswith(SEALED):
            raise SealedError(stored[1:].partition(".")[0])
        return stored

    def fingerprint(self, body: bytes, like: str = "") -> str:
        """See Values."""
        if "." in like:
            raise SealedError(like.partition(".")[0])
        return hashlib.sha256(body).hexdigest()


class SealedValues:
    """Sealed by `vault`. What was stored before sealing was turned on is read as it is."""

    def __init__(self, vault: "Vault") -> None:
        self._vault = vault

    def events(self, keys: JobKeys, epoch: int, first_seq: int, events: Sequence[Event]) -> list[str]:
        """See Values."""
        job = job_of(keys.meta)
        pairs: list[str] = []
        for seq, event in enumerate(events, first_seq):
            field, value = encode(event)
            if field[0] in _TEXTS:
                value = self._vault.seal(job, f"{epoch}-{seq} {field}", value.encode())
                field = SEALED + field
            pairs += (field, value)
        return pairs

    def rows(self, keys: JobKeys, rows: list[Row]) -> list[Row]:
        """See Values."""
        job = job_of(keys.meta)
        return [self._row(job, row) if row.field[0] in _TEXTS or row.field[0] in MERGED else row for row in rows]

    def _row(self, job: str, row: Row) -> Row:
        # A merged value is base64 of what was deflated; sealed as it is it would be base64 twice over.
        value = b64decode(row.value) if row.field[0] in MERGED else row.value.encode()
        return Row(row.id, SEALED + row.field, self._vault.seal(job, f"{row.id} {row.field}", value))

    def opened(self, keys: JobKeys, raw: RawEntries) -> RawEntries:
        """See Values."""
        job = job_of(keys.meta)
        entries: RawEntries = []
        for entry in raw:
            fields = entry[1]
            field, value = next(iter(fields.items())) if isinstance(fields, dict) else fields[:2]
            if field[:1] == SEALED:
                field = field[1:]
                text = self._vault.open(job, f"{entry[0]} {field}", value)
                value = (b64encode(text) if field[:1] in MERGED else text).decode()
                entries.append((entry[0], [field, value]))
            else:
                entries.append(entry)
        return entries

    def request(self, keys: JobKeys, request: str) -> str:
        """See Values."""
        return SEALED + self._vault.seal(job_of(keys.meta), _REQUEST, request.encode())

    def opened_request(self, keys: JobKeys, stored: str) -> str:
        """See Values."""
        if not stored.startswith(SEALED):
            return stored
        return self._vault.open(job_of(keys.meta), _REQUEST, stored[1:]).decode()

    def fingerprint(self, body: bytes, like: str = "") -> str:
        """See Values. A plain hash would tell whoever reads the store which guess at a prompt is right."""
        if like and "." not in like:
            return PLAIN.fingerprint(body)  # made before sealing was turned on
        return self._vault.fingerprint(body, like)


PLAIN = PlainValues()


def chosen_values(settings: Settings) -> Values:
    """What the settings ask for. ValueError where the ring of keys cannot be read."""
    ring = settings.encryption_ring
    if not ring:
        return PLAIN
    from shared.vault import Vault  # who seals nothing need not load it

    return SealedValues(Vault(ring))
