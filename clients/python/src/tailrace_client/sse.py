"""Server-sent events from bytes: a pure decoder after WHATWG HTML § 9.2.6, whatever the bytes are split into."""

import re
from typing import NamedTuple

from tailrace_client.errors import BrokenStreamError

_LINE_BREAK = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""A frame beyond this is refused: a server that never ends one must not fill the reader's memory."""


class Frame(NamedTuple):
    """One dispatched event. `id` is the id that this very frame carried, None where it carried none."""

    event: str
    data: str
    id: str | None = None


class Decoder:
    """Bytes in, frames out. One decoder a connection: an unfinished frame ends with it, as the standard demands."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.retry_ms: int | None = None
        """The last `retry:` of this connection, in milliseconds; None where there was none."""
        self.last_event_id = ""
        """What a browser would send as `Last-Event-ID`: the last id line, also of a frame without data."""
        self._max_bytes = max_frame_bytes
        self._size = 0
        self._partial: list[bytes] = []
        self._after_cr = False
        self._first_line = True
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that these bytes complete; often none.

        Raises BrokenStreamError for a frame of more than `max_frame_bytes`.
        """
        if not chunk:
            return []
        # A line ends at its CR without waiting for what follows, so an LF that comes next belongs to that line.
        start = 1 if self._after_cr and chunk.startswith(b"\n") else 0
        self._after_cr = chunk.endswith(b"\r")
        self._size += len(chunk)
        frames: list[Frame] = []
        *lines, rest = _LINE_BREAK.split(chunk[start:])
        for line in lines:
            self._partial.append(line)
            self._take_line(b"".join(self._partial), frames)
            self._partial = []
        if rest:
            self._partial.append(rest)
        if self._size > self._max_bytes:
            raise BrokenStreamError(f"one event is larger than {self._max_bytes} bytes")
        return frames

    def _take_line(self, line: bytes, frames: list[Frame]) -> None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if line:
            self._take_field(line)
            return
        self._size = 0
        if self._data:
            frames.append(Frame(self._event or "message", "\n".join(self._data), self._id))
        self._event, self._data, self._id = "", [], None

    def _take_field(self, line: bytes) -> None:
        name, _, raw = line.partition(b":")
        value = raw.removeprefix(b" ").decode(errors="replace")
        match name:
            case b"data":
                self._data.append(value)
            case b"event":
                self._event = value
            case b"id" if "\0" not in value:
                self._id = self.last_event_id = value
            case b"retry" if value.isascii() and value.isdigit():
                self.retry_ms = int(value)
            case _:
                # A comment (no name), or a field that the standard does not know. Comments end no frame, so
                # those between two frames must not add up to a large one.
                if not self._data:
                    self._size = 0
