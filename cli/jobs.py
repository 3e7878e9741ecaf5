"""`tailrace show`, `jobs` and `cancel`: asking for jobs, and ending one."""

import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from cli.exits import run
from cli.render import harmless, timing_texts
from cli.server import ApiKeyOption, Server, UrlOption, choose_server

if TYPE_CHECKING:
    from tailrace_client import AsyncTailrace, Job, JobPage

_T = TypeVar("_T")
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="As the server's JSON.")]


def _ask(server: Server, call: "Callable[[AsyncTailrace], Awaitable[_T]]") -> _T:
    """Make one call; typer.Exit with the right code where it fails."""

    async def ask() -> _T:
        async with server.client() as tailrace:
            return await call(tailrace)

    return run(ask())


def show(
    context: typer.Context,
    job: JobArgument,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Show a job and its text so far.

    \b
    Example:
      tailrace show 01jd2k... --json | jq -r .text
    """
    found = _ask(choose_server(context, url, api_key), lambda tailrace: tailrace.job(job))
    if as_json:
        typer.echo(json.dumps(found.raw))
        return
    for name, value in _facts(found):
        typer.echo(f"{name:<12} {value}")
    if found.text:
        typer.echo(f"\n{harmless(found.text) if sys.stdout.isatty() else found.text}")


def _facts(job: "Job") -> list[tuple[str, str]]:
    """What to say about a job, line by line; what is empty is left out."""
    error = f"{job.error.get('message')} ({job.error.get('code')})" if job.error else ""
    facts = (
        ("id", job.id),
        ("status", job.status),
        ("model", f"{job.provider} {job.model}"),
        ("attempt", str(job.attempt)),
        ("finish", job.finish_reason or ""),
        ("error", error),
        ("usage", ", ".join(f"{name} {count}" for name, count in job.usage.items())),
        ("timings", " · ".join(f"{label} {text}" for label, text in timing_texts(job.timings))),
        ("metadata", ", ".join(f"{key}={value}" for key, value in job.metadata.items())),
        ("created", job.created_at or ""),
        ("finished", job.finished_at or ""),
        ("expires", job.expires_at or ""),
        ("cursor", job.last_event_id or ""),
    )
    return [(name, value) for name, value in facts if value]


def jobs(
    context: typer.Context,
    status: Annotated[
        Literal["queued", "running", "done", "failed", "cancelled"] | None, typer.Option(help="Only these.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    after: Annotated[str | None, typer.Option(help="Where the last list ended.")] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """List your jobs, newest first.

    \b
    Examples:
      tailrace jobs --status running
      tailrace jobs --json | jq -r '.data[].id'
    """
    server = choose_server(context, url, api_key)
    page = _ask(server, lambda tailrace: tailrace.jobs(status=status, limit=limit, after=after))
    if as_json:
        typer.echo(json.dumps({"data": [job.raw for job in page.data], "next": page.next}))
        return
    _print_table(page)
    if page.next:
        typer.echo(f"More: tailrace jobs --after {page.next}", err=True)


def _print_table(page: "JobPage") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = ("job", "status", "provider", "model", "attempt", "created", "queued", "first token", "all")
    table = Table(*columns, box=None, pad_edge=False)
    for job in page.data:
        timings = dict(timing_texts(job.timings))
        cells = (job.id, job.status, job.provider, job.model, str(job.attempt), job.created_at or "")
        # Text, not str: a model's name is not markup.
        table.add_row(*(Text(cell) for cell in (*cells, *(timings.get(column, "") for column in columns[6:]))))
    # In a pipe a row is a line, however long.
    console = Console()
    console = console if console.is_terminal else Console(width=240)
    console.print(table if page.data else "no jobs")


def cancel(
    context: typer.Context,
    job: JobArgument,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """End a job at once; its text so far stays readable. A job that has ended is left as it is.

    \b
    Example:
      tailrace cancel 01jd2k...
    """
    ended = _ask(choose_server(context, url, api_key), lambda tailrace: tailrace.cancel(job))
    typer.echo(json.dumps(ended.raw) if as_json else f"{ended.id} {ended.status}")
