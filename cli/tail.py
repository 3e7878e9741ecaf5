"""`tailrace tail`: follow a job from the start or from a cursor."""

from typing import Annotated

import typer

from cli.follow import Following
from cli.server import ApiKeyOption, UrlOption, choose_server


def tail(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job's id.", show_default=False)],
    after: Annotated[
        str | None,
        typer.Option(metavar="CURSOR", help="The last event you have; `$`: the answer so far, then what comes."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One event per line.")] = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Follow a job, from its start or from where you were. Works as often as you like, also after its end.

    \b
    Examples:
      tailrace tail 01jd2k...
      tailrace tail 01jd2k... --after 1717-42
      tailrace tail 01jd2k... --json | jq .data.text
    """
    from tailrace_client.events import parse_cursor

    try:
        parse_cursor(after)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--after") from error
    following = Following(
        choose_server(context, url, api_key),
        lambda tailrace, on_reconnect: tailrace.events(job, after, on_reconnect=on_reconnect),
        as_json,
    )
    raise typer.Exit(following.run())
