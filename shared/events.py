"""The event vocabulary: what can stand in a job's log, the ids, and how an event is written into a log entry.

An entry holds one field. Its name is the event's letter, with `@<at_ms>` behind it where the event carries a time
since the job's creation (`queued` carries the creation itself, ms since 1970); its value is the text of a `token` or
`reasoning` event as it is, JSON for the rest. One short field a token keeps an entry near 20 bytes of overhead.
"""

import re
from datetime import UTC, datetime
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Self

import msgspec

from shared.errors import SealedError

_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}", re.ASCII)
_MAX_PART = 2**64 - 1


class EventId(msgspec.Struct, frozen=True, order=True, gc=False):
    """`<epoch>-<seq>`: a fencing epoch, and a number that rises by one over the whole log."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an id; ValueError for anything that is not `^\\d{1,20}-\\d{1,20}$` within 64 bits."""
        if not _ID.fullmatch(text):
            raise ValueError("an event id is <epoch>-<seq>")
        epoch, _, seq = text.partition("-")
        if int(epoch) > _MAX_PART or int(seq) > _MAX_PART:
            raise ValueError("an event id has two 64-bit numbers")
        return cls(int(epoch), int(seq))


SEALED = "!"
"""What the field of an entry begins with whose value is sealed (shared/storage/sealed.py). No event's letter."""

PROVIDER_CALLS = "provider_calls"
"""The name under which the number of calls is kept beside the token counts of `usage`, in the store alone: it is summed
over attempts as they are, and costs no round trip. On the wire it is a field of the job."""

START = EventId(0, 0)
"""The cursor of a reader that has seen nothing."""
QUEUED_ID = EventId(0, 1)
"""The id of every log's first event."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened to a job. `at_ms`: milliseconds since the job was created, where the event carries it.

    Content is kept by the thousand while its job runs, and holds nothing but texts and numbers: the collector of cycles
    need not look at it (gc=False).
    """

    letter: ClassVar[str]
    type: ClassVar[str]


class Queued(Event, frozen=True, omit_defaults=True):
    """The first event of every log. `at_ms` is the creation itself: ms since 1970, shown as `created_at`."""

    letter: ClassVar[str] = "q"
    type: ClassVar[str] = "queued"
    job_id: str
    provider: str
    model: str
    at_ms: int | None = None


class Start(Event, frozen=True, omit_defaults=True):
    """An attempt begins."""

    letter: ClassVar[str] = "s"
    type: ClassVar[str] = "start"
    attempt: int
    provider: str
    model: str
    queue_ms: int
    at_ms: int | None = None


class Token(Event, frozen=True, omit_defaults=True, gc=False):
    """A piece of the answer."""

    letter: ClassVar[str] = "t"
    type: ClassVar[str] = "token"
    text: str
    at_ms: int | None = None


class Reasoning(Event, frozen=True, omit_defaults=True, gc=False):
    """A piece of the model's reasoning."""

    letter: ClassVar[str] = "r"
    type: ClassVar[str] = "reasoning"
    text: str
    at_ms: int | None = None


class ToolCall(Event, frozen=True, omit_defaults=True, gc=False):
    """A piece of a tool call: `arguments` is argument text as it streams; id and name come with the first piece."""

    letter: ClassVar[str] = "c"
    type: ClassVar[str] = "tool_call"
    index: int
    id: str
    name: str
    arguments: str
    at_ms: int | None = None


class Reset(Event, frozen=True, omit_defaults=True):
    """Keep the first `keep` code points of the text shown, then append `text`; `snapshot` resets are not in the log."""

    letter: ClassVar[str] = "x"
    type: ClassVar[str] = "reset"
    attempt: int
    keep: int
    reason: str
    text: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    snapshot: bool = False
    at_ms: int | None = None


class Done(Event, frozen=True, omit_defaults=True):
    """The answer is whole."""

    letter: ClassVar[str] = "d"
    type: ClassVar[str] = "done"
    finish_reason: str
    usage: dict[str, int]
    tokens: int
    attempt: int
    timings: dict[str, int | float]
    at_ms: int | None = None


class Failed(Event, frozen=True, omit_defaults=True):
    """The job ended without a whole answer."""

    letter: ClassVar[str] = "f"
    type: ClassVar[str] = "failed"
    code: str
    message: str
    retryable: bool
    attempt: int
    timings: dict[str, int | float]
    usage: dict[str, int] = {}
    at_ms: int | None = None


class Cancelled(Event, frozen=True, omit_defaults=True):
    """Somebody ended the job."""

    letter: ClassVar[str] = "z"
    type: ClassVar[str] = "cancelled"
    reason: str
    attempt: int
    timings: dict[str, int | float]
    usage: dict[str, int] = {}
    at_ms: int | None = None


class Unknown(Event, frozen=True, omit_defaults=True):
    """An entry that this version cannot read, written by a newer one. It keeps its place: `seq` has no holes."""

    letter: ClassVar[str] = "?"
    type: ClassVar[str] = "unknown"


class Texts(Event, frozen=True, gc=False):
    """Neighbours of one text type and one epoch, as a reader may get them who is behind. In no log by this name.

    The entry that holds it has the id of the last of them; `at_ms` is the first one's. `lengths`: see `lengths_of`.
    """

    letter: ClassVar[str] = "+"
    type: ClassVar[str] = "texts"
    text: str
    lengths: str
    reasoning: bool = False
    at_ms: int | None = None


CONTENT: tuple[type[Event], ...] = (Token, Reasoning, ToolCall)
TERMINAL: tuple[type[Event], ...] = (Done, Failed, Cancelled)
TYPES: tuple[type[Event], ...] = (Queued, Start, Token, Reasoning, ToolCall, Reset, Done, Failed, Cancelled)
_BY_LETTER = {kind.letter: kind for kind in TYPES}
_DECODERS = {kind.letter: msgspec.json.Decoder(kind) for kind in TYPES}
_encoder = msgspec.json.Encoder()


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One event of a log with its id. A node keeps hundreds of each job that is read: not to be looked at by every full
    collection, which would stop all readers meanwhile."""

    id: EventId
    event: Event


def size(entry: Entry) -> int:
    """How many events of the log an entry stands for."""
    return len(entry.event.lengths) if isinstance(entry.event, Texts) else 1


def length(entry: Entry) -> int:
    """How many characters of a model's text an entry holds."""
    return len(entry.event.text) if isinstance(entry.event, Token | Reasoning | Texts) else 0


def apart(entries: list[Entry]) -> list[Entry]:
    """The same with each event by itself."""
    single: list[Entry] = []
    for entry in entries:
        if isinstance(entry.event, Texts):
            kind = Reasoning if entry.event.reasoning else Token
            at_ms, seq = entry.event.at_ms, entry.id.seq - len(entry.event.lengths)
            for text in pieces(entry.event.text, entry.event.lengths):
                seq += 1
                single.append(Entry(EventId(entry.id.epoch, seq), kind(text, at_ms)))
                at_ms = None
        else:
            single.append(entry)
    return single


_NO_LENGTH = ord("0")


def lengths_of(texts: list[str]) -> str:
    """How many characters each text has, in one character each: `0` for none, `1` for one, and so on through Unicode.

    A text is shorter than 55,000 characters: there the surrogates begin.
    """
    return "".join([chr(_NO_LENGTH + len(text)) for text in texts])


def characters(lengths: str) -> int:
    """What the lengths make together; below zero for what `lengths_of` never gives."""
    return sum(map(ord, lengths)) - _NO_LENGTH * len(lengths) if not lengths or min(lengths) >= "0" else -1


def pieces(text: str, lengths: str) -> list[str]:
    """The texts again that `text` was made of."""
    starts = accumulate([ord(mark) - _NO_LENGTH for mark in lengths], initial=0)
    return [text[start:end] for start, end in pairwise(starts)]


_MOST_DIGITS = 20
"""Of a time: the interpreter refuses numbers of thousands of digits, and a log must be readable whatever is in it."""


def letter_and_time(field: str) -> tuple[str, int | None]:
    """Split an entry's field name into the event's letter and its time."""
    letter, _, at = field.partition("@")
    return letter, int(at) if at.isdecimal() and len(at) <= _MOST_DIGITS else None


def encode(event: Event) -> tuple[str, str]:
    """Write an event as an entry's (field, value)."""
    if type(event) is Token and event.at_ms is None:
        return "t", event.text
    at: int | None = getattr(event, "at_ms", None)
    field = event.letter if at is None else f"{event.letter}@{at}"
    if isinstance(event, Token | Reasoning):
        return field, event.text
    body = event if at is None else msgspec.structs.replace(event, at_ms=None)
    return field, _encoder.encode(body).decode()


def decode(field: str, value: str) -> Event:
    """Read an entry's (field, value); Unknown for what this version cannot read. SealedError for what is sealed."""
    if field == "t":
        return Token(value)
    letter, at = letter_and_time(field)
    if letter == "t":
        return Token(value, at)
    if letter == "r":
        return Reasoning(value, at)
    try:
        event: Event = _DECODERS[letter].decode(value)
    except (KeyError, msgspec.MsgspecError):
        if field[:1] == SEALED:  # to leave it out would show a text with holes
            raise SealedError(value.partition(".")[0]) from None
        return Unknown()
    return event if at is None else msgspec.structs.replace(event, at_ms=at)


def data(event: Event) -> dict[str, Any]:
    """The event's JSON object as PROTOCOL.md shows it (`data:` of a native frame)."""
    body: dict[str, Any] = msgspec.to_builtins(event)
    if isinstance(event, Queued):
        body["created_at"] = rfc3339(body.pop("at_ms", 0))
    elif isinstance(event, TERMINAL):
        body.setdefault("usage", {}).pop(PROVIDER_CALLS, None)
    return body


def rfc3339(ms: int) -> str:
    """Milliseconds since 1970 as RFC 3339 in UTC with milliseconds."""
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def clean_text(text: str) -> str:
    """Join surrogate pairs that a provider split into two escapes; an unpaired one becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
