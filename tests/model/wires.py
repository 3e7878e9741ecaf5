"""The wires of the real world, on which everything waits to be let through, and its replica, an earlier state."""

import asyncio
import contextlib
import socket
from pathlib import Path

import redis

from shared.storage.connect import Redis, open_redis
from tests.support.fault_proxy import FaultProxy, Way, Wire, fault_proxy

TIMEOUT_S = 30.0
TURNS = 25
"""Turns of the event loop after which whoever got a reply has acted on it; a few more or less change the order only."""
_REPLY_S = 0.25
"""A request that is not answered within this is let go on its own."""
Held = tuple[FaultProxy, Wire, Way]


def _free(chunk: bytes) -> bool:
    """What every connection begins with is no step."""
    return b"SETINFO" in chunk or b"SCRIPT" in chunk or chunk in (b"+OK\r\n", b"+OK\r\n+OK\r\n")


async def turns() -> None:
    """Let everybody act on what he has."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


class Wires:
    """Clients of one server, each with a wire of its own on which everything is held. `folder`: for their sockets."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._stack = contextlib.AsyncExitStack()
        self._late: list[bytes] = []
        self.all: list[FaultProxy] = []

    async def client(self) -> Redis:
        """A client; its wire is the last of `all`."""
        path = self._folder / f"{len(self.all)}.sock"
        path.unlink(missing_ok=True)
        url, proxy = await self._stack.enter_async_context(fault_proxy(self._url, path))
        proxy.passes = _free
        self.all.append(proxy)
        client = open_redis(url, timeout_s=TIMEOUT_S, max_connections=8)
        self._stack.push_async_callback(client.aclose)
        return client

    async def aclose(self) -> None:
        """Close clients and wires."""
        await self._stack.aclose()

    def hold(self) -> None:
        """From now on nothing passes by itself."""
        for proxy in self.all:
            proxy.hold()

    def release(self) -> None:
        """Everything passes by itself again."""
        while self._late:
            self._send_late()
        for proxy in self.all:
            proxy.release()

    def reset(self) -> None:
        """Every connection breaks."""
        self._late.clear()
        for proxy in self.all:
            proxy.reset()

    def held(self) -> list[Held]:
        """What is under way."""
        return [(proxy, wire, way) for proxy in self.all for wire in proxy.wires for way in Way if wire.held[way]]

    async def step(self, which: int, *, answered: bool) -> None:
        """Let one piece through; with `answered`, the reply to it as well."""
        held = self.held()
        choices = len(held) + bool(self._late)
        if not choices:
            return
        if which % choices == len(held):
            self._send_late()
            return
        _, wire, way = held[which % choices]
        await self.let(wire, way)
        if answered and way is Way.REQUESTS and wire.held[Way.REPLIES]:
            await self.let(wire, Way.REPLIES)

    async def let(self, wire: Wire, way: Way) -> None:
        """Let the oldest piece through, and whoever gets it act on it."""
        wire.replied.clear()
        wire.let_one(way)
        if way is Way.REQUESTS:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REPLY_S):
                    await wire.replied.wait()
        await turns()

    def lose(self, which: int, *, late: bool) -> None:
        """A connection breaks under what it carries. `late`: a request gets there all the same, by and by."""
        held = self.held()
        if held:
            proxy, wire, way = held[which % len(held)]
            if late and way is Way.REQUESTS and b"SCRIBE" not in wire.held[way][0]:
                self._late.append(wire.held[way][0])
            proxy.cut(wire)

    def _send_late(self) -> None:
        """What stood in a broken connection's buffers is carried out now."""
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(TIMEOUT_S)
            server.connect(self._url.removeprefix("unix://"))
            server.sendall(self._late.pop(0))
            server.recv(65_536)


class Replica:
    """The state of some keys at an earlier time."""

    def __init__(self, url: str, keys: list[str]) -> None:
        self._redis = redis.Redis.from_url(url)
        self._keys = keys
        self._state: dict[str, tuple[bytes, int]] = {}

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()

    def catch_up(self) -> None:
        """Have what the server has."""
        pipe = self._redis.pipeline(transaction=True)
        for key in self._keys:
            pipe.dump(key)
            pipe.pttl(key)
        rows = pipe.execute()
        pairs = zip(self._keys, rows[::2], rows[1::2], strict=True)
        self._state = {key: (dump, left_ms) for key, dump, left_ms in pairs if dump is not None}

    def take_over(self) -> set[str]:
        """Make the server what this is; the keys that it loses."""
        lost = {key for key in self._keys if self._redis.exists(key) and key not in self._state}
        pipe = self._redis.pipeline(transaction=True)
        pipe.delete(*self._keys)
        for key, (dump, left_ms) in self._state.items():
            pipe.restore(key, max(left_ms, 1), dump)
        pipe.execute()
        return lost
