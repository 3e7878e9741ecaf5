"""`tailrace up`, `api` and `worker`: the commands that start processes. Options mirror settings; options win."""

import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.settings import settings_with
from shared.errors import TailraceError

if TYPE_CHECKING:
    from cli.up import Plan, Up
    from shared.settings import Settings

log = logging.getLogger(__name__)

EXIT_USAGE = 2
EXIT_FAILED = 1

Host = Annotated[
    str | None,
    typer.Option(
        help="Address to listen on; beyond loopback only with API keys: of `tailrace keys create`, TAILRACE_API_KEYS "
        "or TAILRACE_API_KEYS_FILE."
    ),
]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")]
RedisUrl = Annotated[str | None, typer.Option(help="redis://, rediss:// or unix:// URL of Valkey or Redis 7+.")]
MaxConnections = Annotated[
    int | None,
    typer.Option("--max-connections", "--limit-concurrency", min=1, help="Of a node; beyond them it refuses new ones."),
]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.")]
Slots = Annotated[int | None, typer.Option(help="Generations at once in one worker.")]


def up(
    host: Host = None,
    port: Port = None,
    api: Annotated[int, typer.Option(min=1, max=32, help="API nodes; they share the port.")] = 1,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
    slots: Slots = None,
    redis_url: RedisUrl = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the embedded Valkey keeps its data.")] = None,
    max_connections: MaxConnections = None,
    log_level: LogLevel = None,
) -> None:
    """Run a whole Tailrace on this machine until Ctrl-C.

    Without --redis-url (or TAILRACE_REDIS_URL) it starts the Valkey that comes with the package, with its append-only
    file under the data directory and a socket that only you can open.

    Examples:

      tailrace up

      tailrace up --port 9000 --api 2 --workers 4 --data-dir /var/lib/tailrace

      tailrace up --redis-url redis://10.0.0.5:6379/0
    """
    from cli.up import ChildFailedError, Plan, Up

    level = log_level or os.environ.get("TAILRACE_LOG_LEVEL", "warning")
    settings = settings_with(
        host=host, port=port, slots=slots, data_dir=data_dir, max_connections=max_connections, log_level=level
    )
    _warn_of_unknown_variables(settings)
    plan = Plan(settings, api, workers, redis_url or os.environ.get("TAILRACE_REDIS_URL", ""))
    try:
        asyncio.run(_run(Up, plan))
    except TailraceError as error:
        _fail(error.message)
    except ChildFailedError as error:
        _fail(str(error))


async def _run(kind: "type[Up]", plan: "Plan") -> None:
    await kind(plan).run()


def api(
    host: Host = None,
    port: Port = None,
    redis_url: RedisUrl = None,
    max_connections: MaxConnections = None,
    log_level: LogLevel = None,
    fd: Annotated[int | None, typer.Option(hidden=True, help="A listening socket that the supervisor opened.")] = None,
) -> None:
    """Run one API node until SIGTERM.

    Examples:

      tailrace api --port 8080 --redis-url redis://valkey:6379/0

      tailrace keys create acme --redis-url redis://valkey:6379/0

      tailrace api --host 0.0.0.0 --redis-url redis://valkey:6379/0
    """
    from api.server import run_api

    settings = settings_with(
        host=host, port=port, redis_url=redis_url, max_connections=max_connections, log_level=log_level
    )
    _warn_of_unknown_variables(settings)
    try:
        run_api(settings, fd=fd)
    except TailraceError as error:
        _fail(error.message)
    except OSError as error:
        _fail(f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}. Choose another --port.")


def worker(redis_url: RedisUrl = None, slots: Slots = None, log_level: LogLevel = None) -> None:
    """Run one worker until SIGTERM; what runs then is handed over to another.

    Examples:

      tailrace worker --redis-url redis://valkey:6379/0 --slots 200
    """
    from worker.main import run_worker

    settings = settings_with(redis_url=redis_url, slots=slots, log_level=log_level)
    _warn_of_unknown_variables(settings)
    try:
        run_worker(settings)
    except TailraceError as error:
        _fail(error.message)


def _warn_of_unknown_variables(settings: "Settings") -> None:
    from cli.variables import warning
    from shared.telemetry import set_up_logging

    if said := warning(os.environ):
        set_up_logging(settings.log_level, settings.log_format)
        log.warning("%s", said)


def _fail(message: str) -> None:
    typer.secho(message, err=True, fg="red")
    raise typer.Exit(EXIT_FAILED)
