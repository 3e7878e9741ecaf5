"""The `tailrace` command: which commands there are. Each has its own file, and imports what is heavy when it runs."""

from collections.abc import Callable

import typer

from cli.demo import demo
from cli.exits import EXIT_CODES_HELP
from cli.jobs import cancel, jobs, show
from cli.keys import keys
from cli.serve import api, up, worker
from cli.server import server_options
from cli.submit import submit
from cli.tail import tail

app = typer.Typer(
    name="tailrace",
    callback=server_options,
    no_args_is_help=True,
    add_completion=False,
    # A traceback of ours goes to a log or a bug report: plain, and without the values of variables (API keys).
    pretty_exceptions_enable=False,
)

_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Server": (up, api, worker, demo),
    "Jobs": (submit, tail, show, jobs, cancel),
}
for panel, commands in _PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel, epilog=EXIT_CODES_HELP if panel == "Jobs" else None)(command)


app.add_typer(keys, name="keys", rich_help_panel="Server")


@app.command(rich_help_panel="About")
def version() -> None:
    """Print the versions of the command and of its client library."""
    from importlib.metadata import version as installed

    typer.echo(f"tailrace {installed('tailrace')} (tailrace-client {installed('tailrace-client')})")


def main() -> None:
    """The console script."""
    app(prog_name="tailrace")


if __name__ == "__main__":
    main()
