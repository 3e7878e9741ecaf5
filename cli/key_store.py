"""The store that `tailrace keys` works in: the one that is named, or the embedded one of a folder, running or not."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from cli.exits import Exit
from cli.settings import usage_errors

if TYPE_CHECKING:
    from cli.valkey import EmbeddedValkey
    from shared.addresses import StoreAddress
    from shared.errors import TailraceError
    from shared.settings import Settings
    from shared.storage.api_keys import ApiKeys

_T = TypeVar("_T")

_START_GUARD_S = 60.0
_LOOK_AGAIN_S = 0.1
_CHECK = (
    "Check that it runs, and its address, user, password and certificate: --redis-url, or TAILRACE_REDIS_URL and the "
    "settings beside it."
)


def in_store(redis_url: str | None, data_dir: Path | None, work: "Callable[[ApiKeys], Awaitable[_T]]") -> _T:
    """Do something with the keys of the store that the options or the environment name, or of the embedded one here.

    A usage error where there is no such store, typer.Exit where it is away: what to do is said on stderr.
    """
    from cli.processes import ChildFailedError
    from shared.errors import TailraceError
    from shared.settings import Settings

    if redis_url is not None and data_dir is not None:
        raise typer.BadParameter("is one store, and --redis-url another: take one away", param_hint="--data-dir")
    # What keeps the store from being used is said below, in one sentence.
    logging.getLogger("shared.storage.complaints").addHandler(logging.NullHandler())
    with usage_errors():
        settings = Settings()
        at = _named(settings, redis_url, data_dir) or _folder(settings, data_dir)
    try:
        return asyncio.run(_run(settings, at, work))
    except TailraceError as error:
        message = _sentence(error, at)
    except ChildFailedError as error:
        message = f"The store in {at} does not start: {error}. Its valkey.log says why."
    except OSError as error:
        message = f"The store in {at} cannot be used: {error.strerror}."
    typer.echo(f"tailrace: {message}", err=True)
    raise typer.Exit(Exit.UNREACHABLE)


def _named(settings: "Settings", redis_url: str | None, data_dir: Path | None) -> "StoreAddress | None":
    """The store that has a URL; None where it is to be an embedded one. ValueError for a URL that is none."""
    if redis_url is not None:
        return settings.control_store_at(redis_url, "--redis-url")
    # The default URL is nobody's word: what listens there may be another's.
    if data_dir is None and (settings.control_redis_url or "redis_url" in settings.model_fields_set):
        return settings.control_store
    return None


def _folder(settings: "Settings", data_dir: Path | None) -> Path:
    """The folder of an embedded store; a usage error for one that has none, in which nothing is made."""
    folder = data_dir or settings.data_dir
    with contextlib.suppress(OSError):
        if (folder / "appendonlydir").is_dir():
            if data_dir is None:
                typer.echo(f"The store is the embedded one in {folder.resolve()}.", err=True)
            return folder
    if data_dir is not None:
        raise typer.BadParameter(f"{folder} holds no store of a `tailrace up`", param_hint="--data-dir")
    raise typer.BadParameter(
        f"No store is named, and {folder.resolve()} holds none. Do this in the folder where `tailrace up` was started, "
        "or name the store: --data-dir for another folder of an embedded one, --redis-url or TAILRACE_REDIS_URL for "
        "one of your own."
    )


async def _run(settings: "Settings", at: "StoreAddress | Path", work: "Callable[[ApiKeys], Awaitable[_T]]") -> _T:
    from shared.storage.api_keys import ApiKeys
    from shared.storage.connect import open_redis

    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(_embedded(at)) if isinstance(at, Path) else at
        redis = open_redis(address, timeout_s=settings.redis_timeout_s, max_connections=4)
        stack.push_async_callback(redis.aclose)
        return await work(ApiKeys(redis))


@contextlib.asynccontextmanager
async def _embedded(folder: Path) -> AsyncIterator[str]:
    """The URL of the embedded store in `folder`, which is started for the length of the block where it does not run.

    So a key can be made before a node is to listen beyond loopback, which it does not without one.
    """
    from cli.valkey import embedded_valkey

    valkey = embedded_valkey(folder)
    with contextlib.ExitStack() as stack:
        if await _lives(valkey, folder, stack):
            yield valkey.url
            return
        child = valkey.child()
        try:
            await child.start(_START_GUARD_S)
            yield valkey.url
        finally:
            await child.stop()


async def _lives(valkey: "EmbeddedValkey", folder: Path, stack: contextlib.ExitStack) -> bool:
    """Whether the store runs; if not, the sole use of its folder is on `stack`. TailraceError for one that hangs.

    One command at a time looks: what the first has started, it would stop under the second's hands.
    """
    from cli.valkey import InUseError, sole_use
    from shared.errors import TailraceError

    our_turn = False
    until_s = time.monotonic() + _START_GUARD_S
    while time.monotonic() < until_s:
        # Where it is not free: another command's turn, or a `tailrace up` that starts or ends.
        with contextlib.suppress(InUseError):
            if not our_turn:
                stack.enter_context(sole_use(folder, "keys.lock"))
                our_turn = True
            if await asyncio.to_thread(valkey.answers):
                return True
            stack.enter_context(sole_use(folder))
            return False
        await asyncio.sleep(_LOOK_AGAIN_S)
    raise TailraceError("unavailable", f"Another command uses {folder}, and the store there does not answer. End it.")


def _sentence(error: "TailraceError", at: "StoreAddress | Path") -> str:
    """What somebody at a terminal can do about it."""
    from cli.render import harmless

    if error.code == "storage_full":
        return "The store has no memory left. Give it more (maxmemory), or wait until jobs have expired."
    if error.__cause__ is None:
        return error.message
    why = harmless(str(error.__cause__)).rstrip(".")
    if isinstance(at, Path):
        return f"The store in {at} cannot be used: {why}. Its valkey.log may say more."
    return f"The store at {at.url} cannot be used: {why}. {_CHECK}"
