"""What a process says about itself: one log line an event, to stderr, without prompts, tokens or keys."""

import json
import logging
import os
import socket
import sys
import threading
import warnings
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from shared.discretion import OURS, trace, words

READY_FD = "TAILRACE_READY_FD"
"""The variable by which a supervisor names the pipe that it wants to hear `ready` on."""

_FORMAT = "%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s"


class _JsonLines(logging.Formatter):
    """One JSON object a line, whatever a message or an exception holds."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": record.process,
            "logger": record.name,
            "message": words(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = trace(record.exc_info[1])
        # ASCII alone: neither a line separator of Unicode's nor half a surrogate pair can get through.
        return json.dumps(line, default=repr)


class _OneLine(logging.Formatter):
    """A message stays one line of plain text, whatever it holds: no forged entries. A traceback follows on its own."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        return trace(ei[1])

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        record.message = words(record)
        return printable(super().formatMessage(record))


def printable(text: str) -> str:
    """`text` with all that a terminal would obey, or a line would end at, written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def set_up_logging(level: str, form: str = "auto") -> None:
    """Log to stderr from `level` on, as `json` or `text`; `auto` is text on a terminal and JSON for everything else.

    `level` is ours alone: of libraries only warnings are logged, and reduced to what may be said (discretion.py).
    Whatever else Python would print by itself, warnings and uncaught exceptions, becomes a line as well.
    """
    handler = logging.StreamHandler(sys.stderr)
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler.setFormatter(_OneLine(_FORMAT) if as_text else _JsonLines())
    chosen = getattr(logging, level.upper())
    logging.basicConfig(level=max(chosen, logging.WARNING), handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(chosen)
    logging.getLogger("uvicorn").setLevel(max(chosen, logging.INFO))
    logging.getLogger("arq").setLevel(max(chosen, logging.WARNING))  # below, it shows arguments
    logging.raiseExceptions = False  # a line that cannot be written would be printed with all its arguments
    _catch_what_is_printed()


def _catch_what_is_printed() -> None:
    log = logging.getLogger("tailrace")

    def warned(message: object, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        log.warning("%s at %s:%d", category.__name__, Path(filename).name, lineno)

    def uncaught(kind: type[BaseException], error: BaseException | None, _: object) -> None:
        if not issubclass(kind, KeyboardInterrupt | SystemExit):
            log.critical("not caught: %s", kind.__name__, exc_info=error)

    warnings.showwarning = warned  # type: ignore[assignment]  # it takes more than it has to
    sys.excepthook = uncaught
    sys.unraisablehook = lambda args: uncaught(args.exc_type, args.exc_value, None)
    threading.excepthook = lambda args: uncaught(args.exc_type, args.exc_value, None)


@cache
def package_version() -> str:
    """The installed version. Read once: it stands in files, and liveness is asked for in the loop."""
    try:
        return version("tailrace")
    except PackageNotFoundError:
        return "unknown"


def process_name(role: str) -> str:
    """A name for this process that no other has: role, host, pid and a moment of its life."""
    return f"{role}-{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"


def log_start(log: logging.Logger, role: str) -> None:
    """Say which code runs, and from where: two versions of one system on one machine are a known trap."""
    log.info("%s %s from %s", role, package_version(), Path(__file__).parent.parent)


def say_ready() -> None:
    """Tell the supervisor that started this process, if one did, that it is ready."""
    fd = os.environ.pop(READY_FD, "")
    if fd.isdigit():
        with os.fdopen(int(fd), "wb") as pipe:
            pipe.write(b"1")
