"""Connections to a store: opened here with every time-out set, and the client's exceptions turned into ours."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis.asyncio as aioredis
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.addresses import StoreAddress
from shared.errors import RecordError, StorageError, TailraceError
from shared.storage.complaints import complain
from shared.storage.sending import let_cancellations_through

log = logging.getLogger(__name__)

Redis = aioredis.Redis
_BROKEN: tuple[Any, ...] = (RedisConnectionError, OSError)
RETRY_AFTER_S = 2.0


class _Credentials(CredentialProvider):
    """Asked at each connection: a password in a file may have changed. Its `repr` tells nothing."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address

    async def get_credentials_async(self) -> Any:  # its type knows no password alone
        """The arguments of AUTH. AuthenticationError where the file cannot be read."""
        try:
            return self._address.credentials()
        except (OSError, UnicodeDecodeError) as error:
            raise AuthenticationError(f"the file of the password cannot be read: {type(error).__name__}") from None


def open_redis(at: StoreAddress | str, *, timeout_s: float, max_connections: int, retries: int = 2) -> Redis:
    """A client for the store `at` an address or a plain URL, closed by its opener with `aclose()`. See `open_pool`."""
    return aioredis.Redis.from_pool(
        open_pool(at, timeout_s=timeout_s, max_connections=max_connections, retries=retries, decode_responses=True)
    )


def open_pool(
    at: StoreAddress | str, *, timeout_s: float, max_connections: int, retries: int = 2, decode_responses: bool
) -> BlockingConnectionPool:
    """Connections to one store (redis://, rediss://, unix://), over TLS with its certificate and host name checked.

    Broken connections are tried twice more within a moment; a connection that cannot be made raises OSError, which
    redis-py does not retry unless it is told to (redis-py issue 3450). A time-out is not retried: all our scripts
    could stand it, but the caller has waited long enough. Waiting for a free connection is bounded as well.
    """
    address = StoreAddress.parse(at, name="The store's URL") if isinstance(at, str) else at
    options: dict[str, Any] = {}
    if not address.url.startswith("unix:"):
        options |= {"socket_connect_timeout": min(timeout_s, 2.0), "socket_keepalive": True}
    if address.tls is not None:
        options["tls"] = address.tls
    if address.user or address.password or address.password_file:
        options["credential_provider"] = _Credentials(address)
    pool = BlockingConnectionPool.from_url(
        address.url,
        decode_responses=decode_responses,
        max_connections=max_connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), retries, supported_errors=_BROKEN),
        retry_on_error=list(_BROKEN) if retries else [],
        **options,
    )
    let_cancellations_through(pool)
    return pool


# How the errors begin that a script meets in the data; what the server says of its own state begins otherwise.
_DAMAGED = ("user_script:", "Error running script", "WRONGTYPE", "The ID specified in XADD")


def as_storage_error(error: Exception) -> StorageError | RecordError:
    """Our error for one of the client's: `storage_full` when memory is out, else `storage_unavailable`.

    RecordError where a script broke on what it found: the store is well, and no repetition would help.
    """
    # Of a unix socket redis-py wraps it.
    if isinstance(refused := error.__cause__ or error, AuthenticationError):
        complain(f"it does not let us in: {refused}")
    elif isinstance(error, NoPermissionError) or "ACL failure" in str(error)[:60]:
        complain(f"its user of ours lacks a right (deploy/valkey/users.acl): {error}")
    if isinstance(error, OutOfMemoryError) or "OOM" in str(error)[:60]:
        return StorageError("storage_full", retry_after_s=RETRY_AFTER_S)
    if type(error) is ResponseError and str(error).startswith(_DAMAGED):
        return RecordError()
    return StorageError("storage_unavailable", retry_after_s=RETRY_AFTER_S)


def sound(answer: Any) -> Any:
    """One answer of a pipeline that was told not to raise; raises the error that it may be."""
    if isinstance(answer, Exception):
        raise answer
    return answer


def readable(answer: Any) -> Any:
    """As `sound`, but None where this one key is of the wrong type: somebody's hand, and no matter of the others."""
    if isinstance(answer, ResponseError) and "WRONGTYPE" in str(answer):
        return None
    return sound(answer)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn what the client raises, time-outs and refused connections included, into StorageError."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise as_storage_error(error) from error
    except TailraceError:
        raise
    except Exception as error:
        # redis-py lets out what it met on a connection that broke under it (AttributeError, RuntimeError …).
        log.warning("store: %s", type(error).__name__)  # its text may hold a reply
        raise as_storage_error(error) from error
