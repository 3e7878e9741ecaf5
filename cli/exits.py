"""What the client commands' exit codes mean, and how an error of the client library becomes one."""

from collections.abc import Coroutine
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from tailrace_client import ApiError, TailraceError

_T = TypeVar("_T")


class Exit(IntEnum):
    """The exit codes of the client commands; scripts may rely on them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    MISSING = 4
    REFUSED = 5
    INTERRUPTED = 130


EXIT_CODES_HELP = (
    "Exit codes: 0 done; 1 the job failed or was cancelled; 2 usage; 3 the server cannot be reached, or not be used; "
    "4 the job is not there (any more); 5 the server refused (API key, request, full queue); 130 interrupted."
)


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's work; what goes wrong is said in one line on stderr, and typer.Exit carries the code for it."""
    import asyncio

    from tailrace_client import TailraceError

    try:
        return asyncio.run(work)
    except TailraceError as error:
        typer.echo(f"tailrace: {_sentence(error)}", err=True)
        raise typer.Exit(_code(error)) from error


def _code(error: "TailraceError") -> Exit:
    from tailrace_client import ApiError, GoneError, NotFoundError, UnavailableError

    if isinstance(error, NotFoundError | GoneError):
        return Exit.MISSING
    if isinstance(error, ApiError) and not isinstance(error, UnavailableError):
        return Exit.REFUSED
    return Exit.UNREACHABLE


def _sentence(error: "TailraceError") -> str:
    from tailrace_client import ApiError

    return _refusal(error) if isinstance(error, ApiError) else str(error)


def _refusal(error: "ApiError") -> str:
    field = f"{error.field}: " if error.field and error.field not in error.message else ""
    again = f" Try again in {error.retry_after:g} s." if error.retry_after else ""
    return f"{field}{error.message} ({error.code}, HTTP {error.status}){again}"
