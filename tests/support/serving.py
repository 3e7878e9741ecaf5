"""An ASGI application behind the server's own protocol and door, in the test's loop."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from api.door import Door, Lobby
from api.protocol import HttpProtocol
from api.server import listening_socket
from shared.settings import Settings


@contextlib.asynccontextmanager
async def serving(app: Any, door: Door | None = None) -> AsyncIterator[uvicorn.Server]:
    """A server on a port of its own (`address_of`) for the length of the block; what still runs then is cancelled."""
    config = uvicorn.Config(app, http=HttpProtocol, ws="none", lifespan="off", log_config=None, proxy_headers=False)
    config.load()
    server = uvicorn.Server(config)
    server.server_state = Lobby(door or Door(Settings()))
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listening_socket("127.0.0.1", 0)])
    try:
        yield server
    finally:
        for task in server.server_state.tasks:
            task.cancel()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await server.shutdown()


def address_of(server: uvicorn.Server) -> tuple[str, int]:
    """Where it listens."""
    host, port = server.servers[0].sockets[0].getsockname()
    return host, port
