"""TLS in front of a store on a unix socket: the embedded Valkey is built without it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()


@contextlib.asynccontextmanager
async def tls_front(socket: Path, certificate: Path, key: Path) -> AsyncIterator[int]:
    """A port on 127.0.0.1 that speaks TLS and passes on to `socket`, for the length of the block."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_store: asyncio.StreamWriter | None = None
        try:
            from_store, to_store = await asyncio.open_unix_connection(socket)
            both = [asyncio.create_task(_pass_on(reader, to_store)), asyncio.create_task(_pass_on(from_store, writer))]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in both:
                task.cancel()
            await asyncio.wait(both)
        finally:
            for end in (writer, to_store):
                if end is not None:
                    end.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
