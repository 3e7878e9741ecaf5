"""Following a job to its end: the loop behind `submit` and `tail`, its exit code, and the way back after Ctrl-C."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from cli.exits import Exit, run
from cli.render import choose_view
from cli.server import Server

if TYPE_CHECKING:
    from tailrace_client import AsyncTailrace, Reconnect, Stream


@dataclass
class Following:
    """One job being followed. `open_stream` makes the stream; `lost_key` is how to find a job that has no id yet."""

    server: Server
    open_stream: "Callable[[AsyncTailrace, Callable[[Reconnect], None]], Stream]"
    as_json: bool
    lost_key: str = ""
    _stream: "Stream | None" = None

    def run(self) -> Exit:
        """Follow to the end; the exit code that tells how the job ended. typer.Exit for what keeps us from it."""
        try:
            return run(self._follow())
        except KeyboardInterrupt:
            self._say_how_to_come_back()
            return Exit.INTERRUPTED

    async def _follow(self) -> Exit:
        async with self.server.client() as tailrace:
            view = choose_view(self.as_json)
            stream = self._stream = self.open_stream(tailrace, view.reconnecting)
            try:
                async for event in stream:
                    view.show(event)
            finally:
                await stream.aclose()
                view.close(stream.transcript)
            if stream.terminal is None:
                # The cursor was at the terminal event: only the job itself still says how it ended.
                status = (await tailrace.job(stream.job_id or "")).status
                return Exit.DONE if status == "done" else Exit.FAILED
            return Exit.DONE if stream.terminal.type == "done" else Exit.FAILED

    def _say_how_to_come_back(self) -> None:
        stream = self._stream
        if stream is not None and stream.job_id:
            after = f" --after {stream.cursor}" if stream.cursor else ""
            typer.echo(f"The job goes on. To come back: tailrace tail {stream.job_id}{after}", err=True)
            typer.echo(f"To end it: tailrace cancel {stream.job_id}", err=True)
        elif self.lost_key:
            typer.echo(
                "It is not known whether the job was accepted. The same command with "
                f"--idempotency-key {self.lost_key} finds it or makes it.",
                err=True,
            )
