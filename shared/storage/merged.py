"""How a finished log's adjacent events of one type stand in one entry: `merge` makes such entries, `expand` undoes it.

A merged entry has the id of the last event in it. Its field is that of the first in capitals (`T`, `R`, `C`,
`T@<at_ms>`), so no event's letter may be one; its value is a JSON list of what the events' values were, deflated, in
base64. The list counts the events, and their ids follow, for only neighbours of one epoch are merged.
Deflated, the marks between the texts cost next to nothing; in base64, the store's replies stay plain text.
"""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from shared.events import Entry, EventId, Unknown, decode

MOST_EVENTS = 256
"""Events in an entry at most: what a reader pays for that comes back in the middle of one. More would save little."""
MOST_CHARS = 16_384
"""Characters in one at most; what is longer stays as it is."""

MERGED = frozenset("TRC")
"""What a merged entry's field begins with: tokens, reasoning, pieces of tool calls."""

RawEntries = list[tuple[str, list[str] | dict[str, str]]]
"""What XRANGE gives: ids, and for each a field and its value, as a list or, from some clients, as a dict."""

_RAW_DEFLATE = -zlib.MAX_WBITS
_values = msgspec.json.Decoder(list[str]).decode


class Row(NamedTuple):
    """One entry as the store has it."""

    id: EventId
    field: str
    value: str


def rows_of(raw: RawEntries) -> list[Row]:
    """What XRANGE gave."""
    rows = []
    for entry_id, fields in raw:
        field, value = next(iter(fields.items())) if isinstance(fields, dict) else fields
        epoch, _, seq = entry_id.partition("-")
        rows.append(Row(EventId(int(epoch), int(seq)), field, value))
    return rows


def merge(rows: Iterable[Row]) -> list[Row]:
    """The same events in as few rows as may be. Only a run's first event may carry a time."""
    merged: list[Row] = []
    run: list[Row] = []
    chars = 0
    for row in rows:
        chars += len(row.value)
        if run and not (_follows(run[-1], row) and len(run) < MOST_EVENTS and chars <= MOST_CHARS):
            merged.append(_one(run))
            run, chars = [], len(row.value)
        run.append(row)
    return [*merged, _one(run)] if run else merged


def _follows(before: Row, row: Row) -> bool:
    """Whether `row` may stand in one entry with the event before it."""
    return (
        row.field in ("t", "r", "c")
        and before.field[:1] == row.field
        and row.id == (before.id.epoch, before.id.seq + 1)
    )


def _one(run: list[Row]) -> Row:
    if len(run) == 1:
        return run[0]
    packer = zlib.compressobj(wbits=_RAW_DEFLATE)
    packed = packer.compress(msgspec.json.encode([row.value for row in run])) + packer.flush()
    return Row(run[-1].id, run[0].field.upper(), b64encode(packed).decode())


def expand(last: EventId, field: str, value: str) -> list[Entry]:
    """The events of a merged entry, as they were appended; Unknown, with the last one's id, where it cannot be read."""
    try:
        values = _values(zlib.decompress(b64decode(value), _RAW_DEFLATE))
    except (ValueError, zlib.error):
        values = []
    if not values:
        return [Entry(last, Unknown())]
    letter, epoch = field[0].lower(), last.epoch
    first = last.seq - len(values) + 1
    entries = [Entry(EventId(epoch, seq), decode(letter, text)) for seq, text in enumerate(values, start=first)]
    if field[1:]:  # the first one's time
        entries[0] = Entry(entries[0].id, decode(field.lower(), values[0]))
    return entries
