"""A wire that can be cut: a TCP relay in front of a node, on loopback."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

_CHUNK = 65_536


class Relay(socketserver.ThreadingTCPServer):
    """Carries bytes both ways, one pair of sockets a connection."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Carry)
        self.target = target
        self.open_sockets: set[socket.socket] = set()

    @property
    def url(self) -> str:
        """Where the node is met through this wire."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def cut(self) -> None:
        """Break every connection that stands, in the middle of whatever it carries."""
        for end in tuple(self.open_sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class _Carry(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as upstream:
            ends = {self.request, upstream}
            self.server.open_sockets |= ends
            answers = threading.Thread(target=_pump, args=(upstream, self.request), daemon=True)
            answers.start()
            _pump(self.request, upstream)
            answers.join()
            self.server.open_sockets -= ends


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Carry one way until either end breaks off; then neither goes on."""
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relay_to(node_url: str) -> Iterator[Relay]:
    """A relay in front of this node."""
    node = urlsplit(node_url)
    with Relay((node.hostname or "127.0.0.1", node.port or 80)) as relay:
        serving = threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        yield relay
        relay.shutdown()
        relay.cut()
        serving.join()
