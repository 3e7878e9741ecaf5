"""The server process: our own listening socket, a protocol that can abort, a shutdown that sends readers away first.

Socket options as measured (reliability notes §4.3): a reader that stalls pins 0.3 MB instead of 4, one that vanishes is
noticed within seconds instead of never. uvicorn has no such settings, so the socket is made here.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.app import create_app, guarded
from api.connection import ABORT, WIRE
from api.keyring import refuse_weak_keys
from api.lean import Bell, Flow, Pipeline
from shared.settings import Settings
from shared.telemetry import log_start, say_ready, set_up_logging

log = logging.getLogger(__name__)

_SEND_BUFFER_BYTES = 64 * 1024
_VANISHED_AFTER_MS = 10_000
_BACKLOG = 2048


class HttpProtocol(HttpToolsProtocol):
    """Puts into each request's scope the means to break its connection off, and itself, to be written to (Wire)."""

    _tell_lost: Callable[[], None] | None = None
    _answering: RequestResponseCycle | None = None
    """The request that is being answered, where others were sent ahead behind it. Not set for every connection: one
    more name in an object of so many costs it a table of its own, 1.4 KB a reader."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client has come."""
        super().connection_made(transport)
        self.flow = Flow(transport)  # type: ignore[assignment]  # a FlowControl in all but weight
        self.pipeline = Pipeline()  # type: ignore[assignment]

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        extensions: dict[str, Any] = {ABORT: self.transport.abort, WIRE: self}
        self.scope["extensions"] = extensions

    def on_headers_complete(self) -> None:
        """A request's head is whole."""
        before = self.cycle
        super().on_headers_complete()
        if len(self.pipeline) == 1:
            self._answering = before
        self.cycle.message_event = Bell()  # type: ignore[assignment]  # before the cycle's task has its first turn

    def on_message_complete(self) -> None:
        """A request is whole. Its headers are its scope's alone, where they can be forgotten."""
        super().on_message_complete()
        self.headers = []

    def has_room(self) -> bool:
        """Whether the connection is open, and has little waiting to be sent."""
        return not (self.flow.write_paused or self.transport.is_closing())

    def write(self, chunk: bytes) -> bool:
        """Send a chunk of the response, if there is room."""
        if self.flow.write_paused or self.transport.is_closing():
            return False
        self.transport.write(chunk)
        return True

    def when_lost(self, tell: Callable[[], None] | None) -> None:
        """Call `tell` once the client is gone."""
        self._tell_lost = tell
        if tell is not None:
            # A large body stops the reading until somebody asks for more; a connection that is not read does not end.
            self.flow.resume_reading()
            if self.transport.is_closing():
                tell()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._answering is not None:
            self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone. uvicorn tells the newest request; the one that is being answered may be another."""
        answering = self._answering
        if answering is not None and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()
        super().connection_lost(exc)
        if self._tell_lost is not None:
            self._tell_lost()


class _Server(uvicorn.Server):
    """uvicorn, but readers are sent away before connections are waited for, and signals end it with status 0."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT, without raising them again afterwards."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, then say so."""
        await super().startup(sockets)
        say_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain: no new connections, readers leave one after the other, then the rest of uvicorn's shutdown."""
        log.info("draining")
        self._app.state.node.leave()
        await super().shutdown(sockets)


def listening_socket(host: str, port: int) -> socket.socket:
    """A TCP socket for the node. OSError where the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by every accepted connection.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", 5),
            ("TCP_KEEPINTVL", 2),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", _VANISHED_AFTER_MS),
        ):
            if hasattr(socket, name):  # not on every platform
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        sock.bind((host.strip("[]"), port))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def run_api(settings: Settings, fd: int | None = None) -> None:
    """Run an API node until SIGTERM or SIGINT and the drain after it. `fd`: a listening socket that is open already.

    Raises TailraceError where it would listen beyond loopback without keys, OSError where it cannot listen.
    """
    set_up_logging(settings.log_level, settings.log_format)
    refuse_weak_keys(settings)
    sock = listening_socket(settings.host, settings.port) if fd is None else socket.socket(fileno=fd)
    app = create_app(settings)
    config = uvicorn.Config(
        guarded(app, settings),
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # no answer depends on who asks from where: its URLs are relative
        timeout_keep_alive=30,
        # uvicorn would wait for open streams for ever.
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
    host, port = sock.getsockname()[:2]
    log_start(log, f"api node on {host}:{port}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(_Server(config, app), app, sock))


async def _serve(server: _Server, app: FastAPI, sock: socket.socket) -> None:
    # The lifespan is run here and not by uvicorn, which would pass it through the guard.
    async with app.router.lifespan_context(app):
        await server.serve(sockets=[sock])
