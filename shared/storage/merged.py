"""How a finished log's adjacent events of one type stand in one entry: `merge` makes such entries, `expand` undoes it.

A merged entry has the id of the last event in it. Its field is that of the first in capitals (`T`, `R`, `C`,
`T@<at_ms>`), so no event's letter may be one; its value is what the events' values were, one behind the other, and how
many characters each has (`lengths_of`), as JSON `[text, lengths]`, deflated, in base64. The lengths count the events,
and their ids follow, for only neighbours of one epoch are merged. Most readers want the text as one, and get it without
taking it apart; deflated, a length costs a few bits; in base64, the store's replies stay plain text.
"""

import zlib
from base64 import b64decode, b64encode
from typing import NamedTuple

import msgspec

from shared.events import Entry, EventId, Texts, Unknown, characters, decode, lengths_of, letter_and_time, pieces

MOST_EVENTS = 256
"""Events in an entry at most: what a reader pays for that comes back in the middle of one. More would save little."""
MOST_CHARS = 16_384
"""Characters in one at most; what is longer stays as it is."""

MERGED = frozenset("TRC")
"""What a merged entry's field begins with: tokens, reasoning, pieces of tool calls."""

_LETTERS = frozenset(letter.lower() for letter in MERGED)

RawEntries = list[tuple[str, list[str] | dict[str, str]]]
"""What XRANGE gives: ids, and for each a field and its value, as a list or, from some clients, as a dict."""

_RAW_DEFLATE = -zlib.MAX_WBITS
_parts = msgspec.json.Decoder(tuple[str, str]).decode


class Row(NamedTuple):
    """One entry as the store is to have it."""

    id: str
    field: str
    value: str


def merge(raw: RawEntries) -> list[Row]:
    """The same events in as few entries as may be. Only a run's first event may carry a time."""
    rows: list[Row] = []
    values: list[str] = []
    begins, last, epoch_before, next_seq, chars = "", "", "", 0, 0
    for entry_id, fields in raw:
        field, value = next(iter(fields.items())) if isinstance(fields, dict) else fields
        epoch, _, seq = entry_id.partition("-")
        follows = field == begins[:1] and field in _LETTERS and epoch == epoch_before and int(seq) == next_seq
        chars += len(value)
        if values and not (follows and len(values) < MOST_EVENTS and chars <= MOST_CHARS):
            rows.append(_row(last, begins, values))
            values = []
        if not values:
            begins, chars = field, len(value)
        values.append(value)
        last, epoch_before, next_seq = entry_id, epoch, int(seq) + 1
    return [*rows, _row(last, begins, values)] if values else rows


def _row(last: str, begins: str, values: list[str]) -> Row:
    """The events of one run, of which the first has the field `begins`, and the last this id."""
    if len(values) == 1:
        return Row(last, begins, values[0])
    packer = zlib.compressobj(wbits=_RAW_DEFLATE)
    packed = packer.compress(msgspec.json.encode(("".join(values), lengths_of(values)))) + packer.flush()
    return Row(last, begins.upper(), b64encode(packed).decode())


def is_compact(raw: RawEntries) -> bool:
    """Whether there is a merged entry among these."""
    return any(next(iter(fields))[:1] in MERGED for _, fields in raw)


def expand(last: EventId, field: str, value: str) -> list[Entry]:
    """The events of a merged entry, as they were appended; Unknown, with the last one's id, where it cannot be read."""
    text, lengths = _parts_of(value)
    if not lengths:
        return [Entry(last, Unknown())]
    values = pieces(text, lengths)
    letter, epoch = field[0].lower(), last.epoch
    first = last.seq - len(values) + 1
    entries = [Entry(EventId(epoch, seq), decode(letter, text)) for seq, text in enumerate(values, start=first)]
    if field[1:]:  # the first one's time
        entries[0] = Entry(entries[0].id, decode(field.lower(), values[0]))
    return entries


def together(last: EventId, field: str, value: str) -> list[Entry]:
    """As `expand`, but texts stay in one entry (Texts)."""
    text, lengths = _parts_of(value) if field[0] in "TR" else ("", "")
    if not lengths:
        return expand(last, field, value)
    return [Entry(last, Texts(text, lengths, field[0] == "R", letter_and_time(field)[1]))]


def _parts_of(value: str) -> tuple[str, str]:
    """The values in a merged one as one text, and their lengths; none where it is not sound."""
    try:
        text, lengths = _parts(zlib.decompress(b64decode(value), _RAW_DEFLATE))
    except (ValueError, zlib.error):
        return "", ""
    return (text, lengths) if characters(lengths) == len(text) else ("", "")
