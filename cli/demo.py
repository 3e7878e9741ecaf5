"""`tailrace demo`: shows the promise on real processes, breaks them on purpose, and says whether it held."""

import asyncio
import os
import signal
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.console import Console
    from tailrace_client import AsyncTailrace, Event, Stream

    from cli.up import Up

_GUARD_S = 120.0
_TOKENS = 150
_PARAMS = {"tokens": _TOKENS, "tokens_per_s": 45, "first_token_ms": 150}
_CUT_AFTER = 30
_KILL_AFTER = 70
_PROMPT = "Tell the story of a river and the mill that it drives, in about 300 words."
_MODELS = {
    "scripted": "demo",
    "openai": "gpt-4o-mini",
    "anthropic": "claude-haiku-4-5-20251001",
    "langchain": "openai:gpt-4o-mini",
}


class BrokenPromiseError(Exception):
    """Something that Tailrace promises did not happen."""


@dataclass
class Seen:
    """What the reader of the first job saw. Times in seconds."""

    first_token_s: float = 0.0
    resumed_s: float = 0.0
    takeover_s: float = 0.0
    pieces: int = 0
    marks: dict[str, float] = field(default_factory=dict)


def demo(
    provider: Annotated[str, typer.Option(help="scripted needs no key; openai, anthropic, langchain do.")] = "scripted",
    model: Annotated[str | None, typer.Option(help="The model; each provider has a default.")] = None,
    prompt: Annotated[str, typer.Option(help="What to ask a real model.")] = _PROMPT,
) -> None:
    """Stream an answer through a cut connection and a killed worker, cancel another, and compare every byte.

    Starts its own Valkey, API node and workers on free ports, in a temporary folder, and stops them. Exit status 0 if
    every promise held.

    Examples:

      tailrace demo

      OPENAI_API_KEY=… tailrace demo --provider openai --model gpt-4o-mini
    """
    from rich.console import Console

    console = Console(highlight=False)
    try:
        asyncio.run(_demo(console, provider, model or _MODELS.get(provider, ""), prompt))
    except* BrokenPromiseError as broken:
        console.print(f"\n[red]Broken: {broken.exceptions[0]}[/red]")
        raise typer.Exit(1) from None
    except* TimeoutError:
        console.print(f"\n[red]Broken: not done within {_GUARD_S:.0f} s[/red]")
        raise typer.Exit(1) from None


async def _demo(console: "Console", provider: str, model: str, prompt: str) -> None:
    from tailrace_client import AsyncTailrace

    began = time.monotonic()
    async with asyncio.timeout(_GUARD_S), _running(console) as up:
        url = await up.ready
        console.print(f"[dim]{time.monotonic() - began:.1f} s to start[/dim]\n")
        async with AsyncTailrace(url) as tailrace:
            job: dict[str, Any] = {"provider": provider, "model": model, "prompt": prompt}
            if provider == "scripted":
                job["params"] = _PARAMS
            seen, stream = await _survive(console, up, tailrace, job)
            rows = await _judge(tailrace, stream, provider)
            cancelled_s = await _cancel(console, tailrace, job)
    _table(console, seen, stream, rows, cancelled_s)


@asynccontextmanager
async def _running(console: "Console") -> "AsyncIterator[Up]":
    """A whole Tailrace in a temporary folder."""
    from cli.settings import settings_with
    from cli.up import Plan, Up

    with tempfile.TemporaryDirectory(prefix="tailrace-demo-") as folder:
        # Only what the demo shows: a worker that is killed is no news to warn about.
        settings = settings_with(port=0, host="127.0.0.1", data_dir=Path(folder), log_level="error")
        up = Up(
            Plan(settings, api=1, workers=2, redis_url=""),
            say=lambda line: console.print(f"\n[dim]{line}[/dim]", soft_wrap=True),
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(up.run())
            running.add_done_callback(lambda _: up.ready.cancel())
            try:
                yield up
            finally:
                up.stop()


async def _survive(
    console: "Console", up: "Up", tailrace: "AsyncTailrace", job: dict[str, Any]
) -> "tuple[Seen, Stream]":
    """Read a job to its end; cut the connection and kill the worker on the way."""
    seen = Seen()
    began = time.monotonic()
    async with tailrace.stream(**job) as stream:
        async for event in stream:
            now = time.monotonic()
            if "cut" in seen.marks and not seen.resumed_s:
                seen.resumed_s = now - seen.marks["cut"]
                console.print(f"[cyan]↩ resumed after {seen.resumed_s * 1000:.0f} ms[/cyan]")
            _show(console, event)
            if event.type == "token":
                seen.pieces += event.n
                seen.first_token_s = seen.first_token_s or now - began
                if "killed" in seen.marks and not seen.takeover_s and stream.transcript.attempt > 1:
                    seen.takeover_s = now - seen.marks["killed"]
                await _break_something(console, up, stream, seen)
    console.print()
    return seen, stream


async def _break_something(console: "Console", up: "Up", stream: "Stream", seen: Seen) -> None:
    if seen.pieces >= _CUT_AFTER and "cut" not in seen.marks:
        console.print(f"\n[yellow]✂ the reader's connection is cut, its cursor is {stream.cursor}[/yellow]")
        seen.marks["cut"] = time.monotonic()
        await stream.cut()
    elif seen.pieces >= _KILL_AFTER and "killed" not in seen.marks:
        pid = await _owner(up.store_url, str(stream.job_id))
        console.print(f"\n[yellow]✗ kill -9 {pid}: the worker that writes this answer[/yellow]")
        seen.marks["killed"] = time.monotonic()
        os.kill(pid, signal.SIGKILL)


async def _owner(store_url: str, job_id: str) -> int:
    """The process that holds the job's lease; the lease names it."""
    from shared.jobs import JobKey
    from shared.principals import OPEN_TENANT
    from shared.storage.connect import open_redis
    from shared.storage.keys import job_keys

    redis = open_redis(store_url, timeout_s=2.0, max_connections=2)
    try:
        lease = str(await redis.get(job_keys(JobKey(OPEN_TENANT, job_id)).lease) or "")
    finally:
        await redis.aclose()
    if not lease:
        raise BrokenPromiseError("nobody works on the job")
    return int(lease.rpartition(":")[0].split("-")[-2])


def _show(console: "Console", event: "Event") -> None:
    match event.type:
        case "token":
            console.out(event.text, end="", highlight=False)
        case "reset":
            console.print(
                f"\n[yellow]↻ attempt {event.data['attempt']}: {event.data['reason']}, starts afresh[/yellow]"
            )
        case "failed":
            console.print(f"\n[red]failed: {event.data['code']}: {event.data['message']}[/red]")
        case _:
            pass


async def _judge(tailrace: "AsyncTailrace", stream: "Stream", provider: str) -> list[tuple[str, str]]:
    """Compare what the reader has with the job, with a second replay, and with what the provider was to say."""
    _must(stream.terminal is not None and stream.terminal.type == "done", "the answer did not end as `done`")
    counters = stream.counters
    _must(counters.lost == 0, f"{counters.lost} events lost")
    _must(counters.resumes >= 1, "the cut connection was not resumed")
    _must(stream.transcript.attempt >= 2, "no second attempt was seen")
    job = await tailrace.job(str(stream.job_id))
    replay = await tailrace.events(job.id, exact=True).finish()
    mine = stream.transcript.text.encode()
    _must(mine == (job.text or "").encode(), "the reader's text is not the job's")
    _must(mine == replay.text.encode(), "a second replay shows another text")
    if provider == "scripted":
        from shared.params import ScriptedParams
        from worker.providers.scripted import script

        said = "".join(script(ScriptedParams(**_PARAMS), stream.transcript.attempt))  # type: ignore[arg-type]
        _must(mine == said.encode(), "the text is not what the provider said")
    return [("bytes compared, all equal", f"{len(mine)}"), ("attempts", str(stream.transcript.attempt))]


async def _cancel(console: "Console", tailrace: "AsyncTailrace", job: dict[str, Any]) -> float:
    """Cancel a second job in mid-answer. Seconds from the request to the terminal event at the reader."""
    console.print("\n[yellow]a second job, cancelled in mid-answer:[/yellow]")
    asked = 0.0
    async with tailrace.stream(**job) as stream:
        async for event in stream:
            _show(console, event)
            if event.type == "token" and not asked:
                asked = time.monotonic()
                await tailrace.cancel(str(stream.job_id))
    console.print(" [dim]cancelled[/dim]")
    _must(stream.terminal is not None and stream.terminal.type == "cancelled", "the job was not cancelled")
    return time.monotonic() - asked


def _table(console: "Console", seen: Seen, stream: "Stream", rows: list[tuple[str, str]], cancelled_s: float) -> None:
    from rich.table import Table

    counters = stream.counters
    table = Table(title="what the reader saw", show_header=False, title_justify="left")
    for name, value in (
        ("time to first token", f"{seen.first_token_s * 1000:.0f} ms"),
        ("pause of the cut connection", f"{seen.resumed_s * 1000:.0f} ms"),
        ("pause of the take-over", f"{seen.takeover_s:.1f} s"),
        ("cancel → last event", f"{cancelled_s * 1000:.0f} ms"),
        *rows,
        ("events lost", str(counters.lost)),
        ("events doubled", str(counters.doubled)),
    ):
        table.add_row(name, value)
    console.print()
    console.print(table)


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BrokenPromiseError(otherwise)
