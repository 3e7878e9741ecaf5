"""The ways to write one log on the wire. A dialect object belongs to one response and may remember what it sent."""

from collections.abc import Callable

from api.dialects.base import Dialect
from api.dialects.chat import Chat, ChatMeta, LangChain
from api.dialects.native import Native
from shared.errors import TailraceError

DIALECTS: dict[str, Callable[[], Dialect]] = {
    "native": Native,
    "native-exact": lambda: Native(exact=True),
    "chat": Chat,
    "chat-meta": ChatMeta,
    "langchain": LangChain,
}


def dialect(name: str, *, exact: bool = False) -> Dialect:
    """The dialect called `name`; TailraceError `invalid_dialect` for an unknown one."""
    names = [known for known in DIALECTS if known != "native-exact"]
    if name not in names:
        raise TailraceError(
            "invalid_dialect", f"There is no dialect {name!r}; use one of {', '.join(names)}.", field="dialect"
        )
    if exact and name != "native":
        raise TailraceError("invalid_request", "`exact` is for the native dialect alone.", field="exact")
    return DIALECTS["native-exact" if exact else name]()


__all__ = ["DIALECTS", "Dialect", "dialect"]
