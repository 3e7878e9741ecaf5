"""How a job's events look: as JSON lines, on a terminal while they come, or as the finished answer in a pipe."""

import sys
from typing import TYPE_CHECKING, Protocol

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from tailrace_client import Event, Reconnect, Transcript

# What a model writes must not steer the terminal: control characters are shown, not sent.
_VISIBLE = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_VISIBLE |= {0x7F: 0x2421, **dict.fromkeys(range(0x80, 0xA0), 0xFFFD)}


def harmless(text: str) -> str:
    """The text as a terminal may be given it: control characters become their pictures."""
    return text.translate(_VISIBLE)


class View(Protocol):
    """Something that shows a job. `close` is called in any case, also when reading ended with an error."""

    def show(self, event: "Event") -> None:
        """Show one event."""

    def reconnecting(self, reconnect: "Reconnect") -> None:
        """The connection broke."""

    def close(self, transcript: "Transcript") -> None:
        """Nothing more comes; this is what the events add up to."""


def choose_view(as_json: bool) -> View:
    """The view for where stdout goes."""
    if as_json:
        return JsonLines()
    return Screen() if sys.stdout.isatty() else Pipe()


class JsonLines:
    """One event a line, as it comes: for programs."""

    def show(self, event: "Event") -> None:
        """Write the event."""
        typer.echo(event.as_json())

    def reconnecting(self, reconnect: "Reconnect") -> None:
        """Programs see it in nothing but the pause."""

    def close(self, transcript: "Transcript") -> None:
        """The lines stand for themselves."""


class Pipe:
    """The text alone, once it is final: what was written into a pipe cannot be taken back by a `reset`."""

    def show(self, event: "Event") -> None:
        """Say on stderr what ended the job, if it is not the answer."""
        if event.terminal and (sentence := ending(event)):
            typer.echo(sentence, err=True)

    def reconnecting(self, reconnect: "Reconnect") -> None:
        """Readers of a pipe see it in nothing but the pause."""

    def close(self, transcript: "Transcript") -> None:
        """Write the text, byte for byte; a last line that is not ended gets its end."""
        text = transcript.text
        if text:
            typer.echo(text.encode(), nl=not text.endswith("\n"))


class Screen:
    """A terminal: the text as it comes, reasoning and notes dimmed, a spinner until there is something to read."""

    def __init__(self, out: "Console | None" = None, notes: "Console | None" = None) -> None:
        from rich.console import Console

        self._out = out or Console(highlight=False)
        self._notes = notes or Console(stderr=True, highlight=False)
        self._spinner: Progress | None = None
        self._shown: list[str] = []
        self._kind = ""
        self._in_line = False
        self._wait("connecting")

    def show(self, event: "Event") -> None:
        """Show one event."""
        data = event.data
        match event.type:
            case "queued":
                self._note(f"job {data.get('job_id')}")
                self._wait("queued")
            case "start":
                self._wait("waiting for the first token")
            case "token":
                self._shown.append(event.text)
                self._write(event.text, "text")
            case "reasoning":
                self._write(event.text, "reasoning")
            case "tool_call":
                name = f"{data['name']} " if data.get("name") else ""
                self._write(f"{name}{data.get('arguments') or ''}", f"tool call {data.get('index')}")
            case "reset":
                self._reset(event)
            case _ if event.terminal:
                self._note(ending(event) or summary(event), dim=event.type == "done")

    def reconnecting(self, reconnect: "Reconnect") -> None:
        """A quick resume is not worth a word; one that does not succeed at once is."""
        if reconnect.tries:
            self._note(f"{reconnect.reason}; trying again in {reconnect.wait_s:.1f} s")

    def close(self, transcript: "Transcript") -> None:
        """Leave the terminal as it was."""
        self._end_line()
        self._stop_waiting()

    def _reset(self, event: "Event") -> None:
        shown = "".join(self._shown)
        now = shown[: event.data.get("keep", 0)] + event.text
        self._shown = [now]
        if now.startswith(shown):
            self._write(now.removeprefix(shown), "text")
            return
        fresh = "what there is so far" if event.snapshot else "the answer starts afresh"
        self._note(f"── {fresh} ({event.data.get('reason')}, attempt {event.data.get('attempt')}) ──")
        self._write(now, "text")

    def _write(self, text: str, kind: str) -> None:
        if not text:
            return
        self._stop_waiting()
        if kind != self._kind:
            self._end_line()
            self._kind = kind
        if kind == "text":
            # Not through the console, which would turn tabs into spaces counted from this piece's beginning.
            self._out.file.write(harmless(text))
            self._out.file.flush()
        else:
            self._out.out(harmless(text), style="dim", highlight=False, end="")
        self._in_line = not text.endswith("\n")

    def _note(self, line: str, dim: bool = True) -> None:
        self._end_line()
        self._stop_waiting()
        self._notes.out(harmless(line), style="dim" if dim else None, highlight=False)

    def _end_line(self) -> None:
        if self._in_line:
            self._out.out("", highlight=False)
            self._in_line = False

    def _wait(self, label: str) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._stop_waiting()
        if self._in_line:
            return  # an answer that goes on is no place for a spinner
        columns = (SpinnerColumn(), TextColumn("{task.description}", style="dim"), TimeElapsedColumn())
        self._spinner = Progress(*columns, console=self._notes, transient=True, disable=not self._notes.is_terminal)
        self._spinner.add_task(label, total=None)
        self._spinner.start()

    def _stop_waiting(self) -> None:
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None


def ending(event: "Event") -> str:
    """A sentence for an end that is not `done`; empty for `done`."""
    data = event.data
    match event.type:
        case "failed":
            again = " It may end better if submitted again." if data.get("retryable") else ""
            return f"tailrace: the job failed: {data.get('message')} ({data.get('code')}){again}"
        case "cancelled":
            return f"tailrace: the job was cancelled ({data.get('reason')})"
        case _:
            return ""


def summary(event: "Event") -> str:
    """One line about a job that is done, from its `done` event."""
    data = event.data
    tokens = data.get("tokens")
    parts = [f"done ({data.get('finish_reason')})", f"{tokens} token{'' if tokens == 1 else 's'}"]
    if data.get("attempt", 1) > 1:
        parts.append(f"attempt {data['attempt']}")
    parts += [f"{label} {text}" for label, text in timing_texts(data.get("timings") or {})]
    return " · ".join(parts)


def timing_texts(timings: dict[str, float]) -> list[tuple[str, str]]:
    """(label, text) for the timings that are there."""
    known = (
        ("queue_ms", "queued", "{:.0f} ms"),
        ("ttft_ms", "first token", "{:.0f} ms"),
        ("latency_ms", "all", "{:.0f} ms"),
        ("tokens_per_s", "at", "{:.1f} tokens/s"),
    )
    return [(label, form.format(timings[name])) for name, label, form in known if timings.get(name) is not None]
