"""The server process: our own listening socket, a door that does not take everybody (api/door.py), a shutdown that
sends readers away first.

Socket options as measured (reliability notes §4.3): a reader that stalls pins 0.3 MB instead of 4, one that vanishes is
noticed within seconds instead of never. uvicorn has no such settings, so the socket is made here.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Iterator

import uvicorn
import uvloop
from fastapi import FastAPI

from api.app import create_app, guarded
from api.door import Door, Lobby, raise_file_limit
from api.keyring import refuse_weak_keys
from api.protocol import HttpProtocol
from shared.settings import Settings
from shared.tasks import end
from shared.telemetry import log_start, say_ready, set_up_logging

log = logging.getLogger(__name__)

_SEND_BUFFER_BYTES = 64 * 1024
_VANISHED_AFTER_MS = 10_000
_BACKLOG = 2048


class _Server(uvicorn.Server):
    """uvicorn, but readers are sent away before connections are waited for, and signals end it with status 0."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, door: Door) -> None:
        super().__init__(config)
        self.server_state = Lobby(door)
        self._app = app
        self._door = door

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop, and keep the door meanwhile."""
        keeping = asyncio.create_task(self._door.run(self.server_state.connections))
        try:
            await super().serve(sockets)
        finally:
            await end(keeping)

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
    files = raise_file_limit()
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
        timeout_keep_alive=settings.keep_alive_s,
        # uvicorn would wait for open streams for ever.
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
    host, port = sock.getsockname()[:2]
    log_start(log, f"api node on {host}:{port}")
    log.info("at most %d connections, %d files", settings.max_connections, files)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(_Server(config, app, Door(settings)), app, sock))


async def _serve(server: _Server, app: FastAPI, sock: socket.socket) -> None:
    # The lifespan is run here and not by uvicorn, which would pass it through the guard.
    async with app.router.lifespan_context(app):
        # What is loaded by now stays: a full collection of it stops every reader for tens of milliseconds.
        gc.collect()
        gc.freeze()
        await server.serve(sockets=[sock])
