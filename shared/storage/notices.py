"""Wake-ups by pub/sub: one subscription connection a process. A notice is a hint; data is always read from the log.

Whoever listens is told `None` after every (re)subscription, which means: notices may have been lost, look yourself.
"""

import asyncio
import logging
import random
from collections.abc import Callable

from redis.asyncio.client import PubSub

from shared.errors import StorageError
from shared.storage.connect import RETRY_AFTER_S, Redis
from shared.storage.sending import received

log = logging.getLogger(__name__)

Listener = Callable[[str | None], None]

_PING_EVERY_S = 5.0
"""A silent connection is asked whether it lives; without an answer by the next turn it is opened anew."""


class Notices:
    """Owned by the composition root, which keeps `run()` in its task group."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._listeners: dict[str, Listener] = {}
        self._confirmations: dict[str, asyncio.Future[None]] = {}
        self._changed = asyncio.Event()
        self._pubsub: PubSub | None = None
        # One command at a time: UNSUBSCRIBE must not overtake the SUBSCRIBE of a listener that came right after.
        self._sending = asyncio.Lock()

    async def subscribe(self, channel: str, listener: Listener, timeout_s: float = 5.0) -> None:
        """Call `listener` for each notice on `channel`. Returns once the store has confirmed it; StorageError if not.

        What is read after the return misses nothing: a later append makes a notice (reliability notes §2.3).
        """
        loop = asyncio.get_running_loop()
        self._listeners[channel] = listener
        confirmed = self._confirmations[channel] = loop.create_future()
        self._changed.set()
        try:
            async with asyncio.timeout(timeout_s):
                async with self._sending:
                    if self._pubsub is not None:
                        await self._pubsub.subscribe(channel)
                await confirmed
        except Exception as error:
            raise StorageError("storage_unavailable", retry_after_s=RETRY_AFTER_S) from error
        finally:
            if self._confirmations.get(channel) is confirmed:
                del self._confirmations[channel]

    async def listen(self, channel: str, listener: Listener) -> None:
        """Keep `listener` subscribed until cancelled, whatever the store does meanwhile."""
        try:
            while True:
                try:
                    await self.subscribe(channel, listener)
                    break
                except StorageError:
                    await asyncio.sleep(random.uniform(0.05, 0.3))
            await asyncio.get_running_loop().create_future()  # from here on `run` renews the subscription by itself
        finally:
            await self.unsubscribe(channel)

    async def unsubscribe(self, channel: str) -> None:
        """Stop listening. Never raises: a connection that breaks here is opened anew without the channel."""
        self._listeners.pop(channel, None)
        try:
            async with self._sending:
                if channel not in self._listeners and self._pubsub is not None:
                    await self._pubsub.unsubscribe(channel)
        except Exception:
            log.debug("unsubscribe met a broken connection")

    async def run(self) -> None:
        """Keep the subscription alive until cancelled."""
        backoff_s = 0.05
        while True:
            if not self._listeners:
                self._changed.clear()
                await self._changed.wait()
            try:
                await self._listen()
                backoff_s = 0.05
            except Exception as error:
                # Whatever the client library lets out of a connection that broke: the next one is a new one.
                log.warning("notices: %s; connecting again", type(error).__name__)
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1.5))
                backoff_s = min(backoff_s * 2, 2.0)

    async def _listen(self) -> None:
        """One connection's life: subscribe to everything, then pass notices on, also while nobody listens."""
        pubsub = self._redis.pubsub()
        try:
            async with self._sending:
                # Before the subscription, so that whoever comes during it sends a command of its own.
                self._pubsub = pubsub
                await pubsub.subscribe(*self._listeners)
            pinged = False
            while True:
                messages = await received(pubsub, _PING_EVERY_S)
                if messages:
                    pinged = False
                    for message in messages:
                        self._pass_on(*message)
                elif pinged:
                    raise TimeoutError("no answer to a ping")
                else:
                    await pubsub.ping()
                    pinged = True
        finally:
            self._pubsub = None
            await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it without annotations

    def _pass_on(self, kind: str, channel: str = "", text: str = "") -> None:
        listener = self._listeners.get(channel)
        if kind == "message":
            if listener is not None:
                listener(text)
        elif kind == "subscribe":
            confirmation = self._confirmations.get(channel)
            if confirmation is not None and not confirmation.done():
                confirmation.set_result(None)
            if listener is not None:
                listener(None)
