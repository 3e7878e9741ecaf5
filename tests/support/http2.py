"""As much HTTP/2 as it takes to open many streams over one connection and to see what comes: RFC 9113, by hand."""

import asyncio
import ssl
import struct
from pathlib import Path
from typing import NamedTuple, Self

DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
_END_STREAM_AND_HEADERS = 0x5
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# HPACK (RFC 7541): fields of the static table by their index, others literal behind the index of their name.
_METHOD_GET, _SCHEME_HTTPS, _AUTHORITY, _PATH = b"\x82", b"\x87", b"\x01", b"\x04"


class Frame(NamedTuple):
    """One frame as it came."""

    kind: int
    stream: int
    payload: bytes


class Http2:
    """One connection, TLS and all. `async with Http2(…) as connection`."""

    def __init__(self, address: str, port: int, trusted: Path) -> None:
        self._address, self._port = address, port
        self._tls = ssl.create_default_context(cafile=str(trusted))
        self._tls.set_alpn_protocols(["h2", "http/1.1"])
        self._next_stream = 1

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._address, self._port, ssl=self._tls)
        self.protocol = self._writer.get_extra_info("ssl_object").selected_alpn_protocol()
        self._writer.write(_PREFACE + _frame(SETTINGS, 0, 0, b""))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    def get(self, path: str) -> int:
        """Ask for a path; the stream that the answer comes on."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        fields = _METHOD_GET + _SCHEME_HTTPS + _AUTHORITY + _text(self._address) + _PATH + _text(path)
        self._writer.write(_frame(HEADERS, _END_STREAM_AND_HEADERS, stream, fields))
        return stream

    async def frame(self) -> Frame:
        """The next frame that belongs to a stream."""
        while True:
            head = await self._reader.readexactly(9)
            size, kind, stream = int.from_bytes(head[:3]), head[3], struct.unpack("!I", head[5:])[0]
            payload = await self._reader.readexactly(size)
            if stream:
                return Frame(kind, stream, payload)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def _text(text: str) -> bytes:
    assert len(text) < 127, "longer texts need a longer length"
    return bytes([len(text)]) + text.encode()
