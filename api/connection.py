"""What ASGI cannot say: break a connection off, or write to it without a task's turn. The server's protocol
(api/server.py) puts the means into the scope.

A clean end before the terminal event looks like success to most clients, and EventSource gives up for ever on any
answer but 200 (wire notes, R2 and R4): some connections must be aborted, and some closed without an answer.
"""

from collections.abc import Callable
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.errors import TailraceError

ABORT = "tailrace.abort"
WIRE = "tailrace.wire"
REFUSAL = "tailrace.refusal"
"""In a scope's extensions: the TailraceError that the request is to be answered with, whatever it asks for."""


class Wire(Protocol):
    """A connection under a response that has begun, in chunked encoding."""

    def body_is_whole(self) -> bool:
        """Whether nothing of the request is to be waited for any more."""

    def has_room(self) -> bool:
        """Whether it is open, and has little waiting to be sent."""

    def write(self, chunk: bytes) -> bool:
        """Send a whole chunk of the response, its length and line ends included; False where there is no room."""

    def when_lost(self, tell: Callable[[], None] | None) -> None:
        """Call `tell`, and nobody else, as soon as the client is gone, which it may be already."""


def wire_of(scope: Scope) -> Wire | None:
    """The connection's own way to write; None under a foreign server."""
    found: Wire | None = scope.get("extensions", {}).get(WIRE)
    return found


def refusal_of(scope: Scope) -> TailraceError | None:
    """Why the request is not to be served at all, if it is not."""
    found: TailraceError | None = scope.get("extensions", {}).get(REFUSAL)
    return found


class CloseWithoutAnswerError(Exception):
    """Raised before an answer has begun: close the connection, so that the client tries again."""


async def abort(scope: Scope, receive: Receive) -> None:
    """Break the connection off at once. Under a foreign server the exception below does it, with a log line."""
    extensions: dict[str, Any] = scope.get("extensions", {})
    cut: Callable[[], None] | None = extensions.get(ABORT)
    if cut is None:
        raise CloseWithoutAnswerError
    cut()
    while (await receive())["type"] != "http.disconnect":
        pass


class Closing(Response):
    """No answer at all: the connection closes before a head was sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Close it."""
        await abort(scope, receive)
