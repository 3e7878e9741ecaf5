"""Connections of redis-py's, with a send that can be cancelled and a way to exchange many commands for many replies.

redis-py sends inside `asyncio.wait_for`, which before Python 3.12 answers such a cancellation with the send's result; a
time-out around the call is a cancellation too, and then never comes. `asyncio.timeout` loses none, and makes no task.

redis-py packs each command in Python and reads each reply through six coroutines, 13 µs a command in a pipeline. Here
hiredis does both, and only the socket is waited for (`exchange`).
"""

import asyncio
import ssl
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import redis.asyncio as aioredis
from hiredis import Reader, pack_command
from redis._parsers.hiredis import NOT_ENOUGH_DATA, _AsyncHiredisParser
from redis.asyncio import BlockingConnectionPool, ConnectionPool
from redis.asyncio.client import PubSub
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.storage.complaints import complain

Redis = aioredis.Redis

_ALL = 10_000
"""Replies that are taken at once at most, before others in the loop have their turn."""

if TYPE_CHECKING:
    _Base = Connection
else:
    _Base = object


class _Sending(_Base):
    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """Send one packed command or several. A connection that may have sent half of one is of no more use."""
        if not self.is_connected:
            await self.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it without annotations
        elif check_health:
            await self.check_health()  # type: ignore[no-untyped-call]
        if isinstance(command, str):
            command = command.encode()
        writer = self._writer
        if writer is None:
            raise RedisConnectionError("the connection was closed by another task")
        try:
            async with asyncio.timeout(self.socket_timeout):
                writer.writelines([command] if isinstance(command, bytes) else command)
                await writer.drain()
        except BaseException as error:
            raise await self._given_up(error, "writing to") from None

    async def can_read_destructive(self) -> bool:
        """Whether something has come that nobody waits for, or the end: then the connection is of no use.

        redis-py looks by reading with a time-out of zero, before every command that takes a connection from the pool.
        """
        reader: Any = self._reader
        if reader is None or reader.at_eof() or reader.exception() is not None or reader._buffer:  # noqa: SLF001
            return True
        return self._take([], 1)

    async def exchange(self, packed: bytes, count: int) -> list[Any]:
        """Send commands and return as many replies; what the server refuses is a ResponseError in its place."""
        await self.send_packed_command(packed)
        replies: list[Any] = []
        try:
            whole = self._take(replies, count)
            while not whole:
                had = len(replies)
                async with asyncio.timeout(self.socket_timeout):  # for each reply, as the client's own commands have it
                    while not whole and len(replies) == had:
                        await self._hiredis.read_from_socket()  # type: ignore[no-untyped-call]
                        whole = self._take(replies, count)
        except BaseException as error:
            raise await self._given_up(error, "reading from") from None
        return replies

    async def received(self, timeout_s: float) -> list[Any]:
        """What the server has said by itself, at least one thing; nothing after `timeout_s` of silence."""
        said: list[Any] = []
        try:
            async with asyncio.timeout(timeout_s):
                while not (self._take(said, _ALL) or said):
                    await self._hiredis.read_from_socket()  # type: ignore[no-untyped-call]
        except TimeoutError:
            return []
        return said

    async def _given_up(self, error: BaseException, doing: str) -> BaseException:
        """Close the connection, of which nobody knows any more what is under way on it; the error to raise for it."""
        await self.disconnect(nowait=True)
        if isinstance(error, TimeoutError):
            return RedisTimeoutError(f"Timeout {doing} socket")
        return RedisConnectionError(f"Error while {doing} socket: {error}") if isinstance(error, OSError) else error

    def _take(self, replies: list[Any], count: int) -> bool:
        """Move whole replies from the buffer into `replies`; whether there are `count` now."""
        reader: Reader | None = self._hiredis._reader  # noqa: SLF001 - its public way out is the slow one
        while len(replies) < count:
            reply = NOT_ENOUGH_DATA if reader is None else reader.gets()
            if reply is NOT_ENOUGH_DATA:
                return False
            if isinstance(reply, RedisConnectionError):  # LOADING and the like: not of this command, but of the server
                raise reply
            replies.append(reply)
        return True

    @property
    def _hiredis(self) -> _AsyncHiredisParser:
        parser = self._parser
        assert isinstance(parser, _AsyncHiredisParser), "redis[hiredis] is among our dependencies"
        return parser


async def exchange(redis: Redis, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The replies to `commands`, sent in one piece, without the client's conversions; refusals stand in their place.

    RedisError or OSError where the store cannot be reached. Tried again as the client's own commands are, so each
    command has to be one that can be carried out twice. Works with any client; fast with ours.
    """
    if not commands:
        return []
    pool: ConnectionPool = redis.connection_pool
    if not issubclass(pool.connection_class, _Sending):
        return await _one_by_one(redis, commands)
    connection = await pool.get_connection()
    try:
        return await _exchange(connection, commands)
    finally:
        await pool.release(connection)


class OwnLine:
    """`exchange` over a connection of its own, for one caller at a time: taking one from the pool and giving it back
    costs as much as the exchange. Its owner closes it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._connection: Any = None

    async def exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """See `exchange`."""
        if not commands:
            return []
        pool: ConnectionPool = self._redis.connection_pool
        if not issubclass(pool.connection_class, _Sending):
            return await _one_by_one(self._redis, commands)
        if self._connection is None:
            self._connection = pool.make_connection()  # type: ignore[no-untyped-call]
        if self._connection.is_connected and await self._connection.can_read_destructive():
            await (
                self._connection.disconnect()
            )  # closed from the other side, or of no use: as the pool looks at its own
        return await _exchange(self._connection, commands)

    async def aclose(self) -> None:
        """Close the connection; the next exchange opens another."""
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)


async def _exchange(connection: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    packed = b"".join(map(pack_command, commands))
    replies: list[Any] = await connection.retry.call_with_retry(
        lambda: connection.exchange(packed, len(commands)), lambda _: connection.disconnect()
    )
    return replies


async def _one_by_one(redis: Redis, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    pipe = redis.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    return list(await pipe.execute(raise_on_error=False))


async def together(redis: Redis, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The replies to `commands`, carried out as one transaction. RedisError where one is refused."""
    if not issubclass(redis.connection_pool.connection_class, _Sending):
        pipe = redis.pipeline(transaction=True)
        for command in commands:
            pipe.execute_command(*command)
        return list(await pipe.execute())
    *queued, replies = await exchange(redis, [("MULTI",), *commands, ("EXEC",)])
    for reply in (*queued, replies, *(replies if isinstance(replies, list) else ())):
        if isinstance(reply, Exception):
            raise reply
    return list(replies)


async def received(pubsub: PubSub, timeout_s: float) -> list[tuple[str, ...]]:
    """What has come to a subscriber, as (kind, channel, text); nothing after `timeout_s` of silence."""
    connection: object = pubsub.connection
    if isinstance(connection, _Sending):
        heard = []
        for said in await connection.received(timeout_s):
            if isinstance(said, Exception):
                raise said
            # Without a subscription the answer to a ping is a plain word.
            heard.append(tuple(said) if isinstance(said, list) else (said,))
            if heard[-1][0] == "unsubscribe":  # what redis-py would do on its own, slower way
                pubsub.channels.pop(heard[-1][1], None)
                pubsub.pending_unsubscribe_channels.discard(heard[-1][1])
        return heard
    message = await pubsub.get_message(timeout=timeout_s)
    return [] if message is None else [(message["type"], message["channel"] or "", message["data"])]


class _Tcp(_Sending, Connection):
    pass


class _Tls(_Sending, SSLConnection):
    def __init__(self, *, tls: ssl.SSLContext, **options: Any) -> None:
        """`tls`: shared by all connections, in place of one that redis-py makes for each."""
        super().__init__(**options)
        self._tls = tls

    def _connection_arguments(self) -> dict[str, Any]:
        return {"host": self.host, "port": self.port, "ssl": self._tls}

    async def _connect(self) -> None:
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except ssl.SSLCertVerificationError as error:
            complain(f"the certificate of {self.host}:{self.port} is not accepted: {error.verify_message}")
            raise


class _Unix(_Sending, UnixDomainSocketConnection):
    pass


_CLASSES: dict[type[Any], type[Any]] = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}


def let_cancellations_through(pool: BlockingConnectionPool) -> None:
    """Have `pool`, which has made no connection yet, make its connections of these classes."""
    pool.connection_class = _CLASSES[pool.connection_class]
