"""What of others' words may stand in a log: nothing that could be a prompt, an answer, a key or a provider's body.

Our own lines name jobs, codes and places. A library's may quote what it was given: at the debug level the SDKs log
whole requests, an exception's text may hold the value that it could not read, a warning the text that it is about. So a
foreign line is reduced to where it comes from, and an exception to its kind and its trace.
"""

import logging
import traceback
from pathlib import PurePath

from shared.errors import TailraceError

OURS = frozenset({"api", "cli", "shared", "worker", "tailrace"})
_PLAIN = OURS | {"arq", "redis", "uvicorn"}
"""Loggers whose words are known to name nothing but ids and states, at the levels at which they are let through."""
_VENDORS = frozenset(
    {"aiohttp", "anthropic", "httpcore", "httpcore2", "httpx", "httpx2", "langchain", "langchain_anthropic"}
    | {"langchain_core", "langchain_openai", "langgraph", "langsmith", "openai", "urllib3"}
)
"""Loggers whose words are withheld even where somebody has turned them on (OPENAI_LOG=debug)."""
_OF_THE_LOOP = (
    "Task exception was never retrieved",
    "Future exception was never retrieved",
    "Task was destroyed but it is pending!",
    "Exception in callback",
    "Unclosed",
)
"""What asyncio begins with; behind it stand objects, with all that they hold."""
_MOST_ERRORS = 16


def words(record: logging.LogRecord) -> str:
    """The message of a record, or the place that it comes from."""
    family = record.name.partition(".")[0]
    if family == "asyncio":
        said = str(record.msg)
        return next((start for start in _OF_THE_LOOP if said.startswith(start)), _withheld(record))
    if family in _PLAIN or (family not in _VENDORS and _is_turned_on(record.name)):
        try:
            return record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit: logging would print them all
            return str(record.msg)
    return _withheld(record)


def trace(error: BaseException) -> str:
    """Kind and trace of an exception, of its causes, and of what a group holds; its text only where it is ours."""
    told: list[BaseException] = []
    return "\n".join(_traces(error, told))


def _traces(error: BaseException, told: list[BaseException]) -> list[str]:
    if len(told) >= _MOST_ERRORS or any(error is known for known in told):
        return []
    told.append(error)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = [] if cause is None else [*_traces(cause, told), "which led to:"]
    frames = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__))
    lines = [*before, "".join(frames.format()) + _said(error)]
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            lines += _traces(part, told)
    return lines


def _said(error: BaseException) -> str:
    kind = type(error).__name__
    if isinstance(error, TailraceError):
        return f"{kind}: {error}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{kind}: errno {error.errno}"
    return kind


def _is_turned_on(name: str) -> bool:
    """Whether somebody has given this logger, or one above it, a level of its own: a chain's author, who knows what it
    says."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None and logger.parent is not None:
        if logger.level:
            return True
        logger = logger.parent
    return False


def _withheld(record: logging.LogRecord) -> str:
    return f"(words withheld, {PurePath(record.pathname).name}:{record.lineno})"
