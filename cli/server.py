"""Which server the client commands talk to: `--url` and `--api-key`, before or after the command's name."""

from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

if TYPE_CHECKING:
    from tailrace_client import AsyncTailrace

DEFAULT_URL = "http://127.0.0.1:8080"
_FIRST_CONTACT_S = 5.0
"""Somebody sits in front of it: an address where nobody answers is to show soon. A broken line is waited for longer."""


class Server(NamedTuple):
    """The server of this invocation."""

    url: str
    api_key: str | None

    def client(self) -> "AsyncTailrace":
        """A client for it; the caller closes it. typer.BadParameter for a URL that is none."""
        from tailrace_client import AsyncTailrace, Patience

        try:
            return AsyncTailrace(self.url, self.api_key, patience=Patience(first_contact_s=_FIRST_CONTACT_S))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--url") from error


UrlOption = Annotated[
    str | None, typer.Option("--url", help="The server.", show_default=False, rich_help_panel="Server")
]
ApiKeyOption = Annotated[
    str | None, typer.Option("--api-key", help="The API key.", show_default=False, rich_help_panel="Server")
]


def choose_server(context: typer.Context, url: str | None, api_key: str | None) -> Server:
    """The server that was named, after the command's name or before it, or by the environment."""
    given = context.find_object(Server) or Server(DEFAULT_URL, None)
    return Server(url or given.url, api_key or given.api_key)


def server_options(
    context: typer.Context,
    url: Annotated[str, typer.Option(envvar="TAILRACE_URL", help="The server to talk to.")] = DEFAULT_URL,
    api_key: Annotated[
        str | None, typer.Option(envvar="TAILRACE_API_KEY", help="The API key, where the server wants one.")
    ] = None,
) -> None:
    """LLM answers that survive everything between the model and the reader."""
    context.obj = Server(url, api_key)
