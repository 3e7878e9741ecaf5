"""What a process says about itself: one log line an event, to stderr, without prompts, tokens or keys."""

import json
import logging
import os
import socket
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # ASCII alone: neither a line separator of Unicode's nor half a surrogate pair can get through.
        return json.dumps(line, default=repr)


class _OneLine(logging.Formatter):
    """A message stays one line, whatever it holds: no forged entries. A traceback follows on its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        line = super().formatMessage(record)
        return line.replace("\r", "\\r").replace("\n", "\\n")


def set_up_logging(level: str, form: str = "auto") -> None:
    """Log to stderr from `level` on, as `json` or `text`; `auto` is text on a terminal and JSON for everything else.

    arq's own lines and access lines stay out: they would show arguments and URLs.
    """
    handler = logging.StreamHandler(sys.stderr)
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler.setFormatter(_OneLine(_FORMAT) if as_text else _JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("arq", "httpx", "httpx2", "httpcore", "httpcore2", "openai", "anthropic", "langchain"):
        logging.getLogger(name).setLevel(logging.WARNING)


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
