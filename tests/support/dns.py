"""A name server on loopback, as Docker's: service names to the addresses of their containers, which come and go."""

import contextlib
import socketserver
import struct
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address

PORT = 5353
_A_RECORD = 1
_POINTER_TO_QUESTION = 0xC00C
_NO_SUCH_NAME = 3


class DockerDns(socketserver.ThreadingUDPServer):
    """Answers from `table`, name to addresses; a test changes it while nginx runs. An empty list is no such name."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: str) -> None:
        super().__init__((address, PORT), _Answer)
        self.table: dict[str, list[str]] = {}

    @property
    def endpoint(self) -> str:
        """Where it is asked: address and port."""
        return f"{self.server_address[0]!s}:{PORT}"


class _Answer(socketserver.BaseRequestHandler):
    server: DockerDns

    def handle(self) -> None:
        query, sock = self.request
        name, question = _question(query)
        (kind,) = struct.unpack("!H", question[-4:-2])
        known = self.server.table.get(name, [])
        records = b"".join(_record(address) for address in known) if kind == _A_RECORD else b""
        flags = 0x8180 | (0 if known else _NO_SUCH_NAME)
        head = struct.pack("!HHHHHH", *struct.unpack("!H", query[:2]), flags, 1, len(known) if records else 0, 0, 0)
        sock.sendto(head + question + records, self.client_address)


def _question(query: bytes) -> tuple[str, bytes]:
    """The name that is asked for, and the question as it came."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels), query[12 : at + 5]


def _record(address: str) -> bytes:
    ttl_s = 600  # as Docker says; nginx is told to ask sooner
    return struct.pack("!HHHIH", _POINTER_TO_QUESTION, _A_RECORD, 1, ttl_s, 4) + IPv4Address(address).packed


@contextlib.contextmanager
def running_dns(address: str) -> Iterator[DockerDns]:
    """A name server for the length of a block."""
    with DockerDns(address) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        serving.start()
        try:
            yield server
        finally:
            server.shutdown()
            serving.join()
