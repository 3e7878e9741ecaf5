"""`tailrace submit`: put a generation on the queue and read the answer as it comes."""

import json
import sys
import uuid
from typing import Annotated, Any, Literal

import typer

from cli.exits import run
from cli.follow import Following
from cli.server import ApiKeyOption, Server, UrlOption, choose_server


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    """`key=value` texts as a table; typer.BadParameter for what has no `=`."""
    pairs = {}
    for text in texts:
        key, mark, value = text.partition("=")
        if not mark or not key:
            raise typer.BadParameter(f"{text!r} is not key=value", param_hint=option)
        pairs[key] = value
    return pairs


def _json_or_text(value: str) -> Any:
    """A parameter's value: JSON where it is JSON, otherwise the text itself, so that words need no quotes."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def _prompt(given: str | None) -> str:
    """The prompt: the argument, or stdin where there is none (or `-`)."""
    if given not in (None, "-"):
        return str(given)
    if given is None and sys.stdin.isatty():
        raise typer.BadParameter("give a prompt, or pipe one in", param_hint="PROMPT")
    return sys.stdin.read()


def _model(provider: str, given: str | None) -> str:
    """The model. The built-in provider has only itself; which of a vendor's to pay for is the user's choice."""
    if given:
        return given
    if provider != "scripted":
        raise typer.BadParameter(f"{provider} needs the name of a model", param_hint="--model")
    return "demo"


def submit(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="What to ask; `-` or nothing: read stdin.")] = None,
    provider: Annotated[
        str, typer.Option(envvar="TAILRACE_PROVIDER", help="openai, anthropic, langchain or scripted.")
    ] = "scripted",
    model: Annotated[
        str | None, typer.Option(envvar="TAILRACE_MODEL", help="The provider's name of the model; scripted needs none.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="How much chance there is in the answer.")] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=JSON", help="A parameter of the provider; repeatable.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A note to keep with the job; repeatable.")
    ] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="Higher first.")] = None,
    ttl_s: Annotated[int | None, typer.Option(min=1, help="Seconds to keep the job after its end.")] = None,
    cancel_if_unread_s: Annotated[
        int | None, typer.Option(min=5, help="Cancel the job once nobody has read it for so many seconds.")
    ] = None,
    on_interrupt: Annotated[
        Literal["restart", "continue", "fail"] | None, typer.Option(help="When generating is interrupted midway.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Submitting again under the same key finds the job instead of making one.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print the job's id and leave.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One event per line (with --detach: the job).")] = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Ask for an answer and read it as it comes.

    Connections may break: reading goes on where it was. Ctrl-C leaves the job running and says how to come back.
    Into a pipe goes the finished text alone; with --json every event, as it comes.

    \b
    Examples:
      tailrace submit "Why does ice float?"
      tailrace submit --provider openai --model gpt-4o-mini < question.txt
      tailrace submit "Two colours" --param top_p=0.5 --param 'stop=["red"]'
      tailrace submit "Two colours" --json | jq -r 'select(.event == "token")'
      JOB=$(tailrace submit "A story" --detach); tailrace tail "$JOB"
    """
    server = choose_server(context, url, api_key)
    job: dict[str, Any] = {
        "provider": provider,
        "model": _model(provider, model),
        "prompt": _prompt(prompt),
        "system": system,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "params": {key: _json_or_text(value) for key, value in _pairs(param or [], "--param").items()} or None,
        "metadata": _pairs(metadata or [], "--metadata") or None,
        "priority": priority,
        "ttl_s": ttl_s,
        "cancel_if_unread_s": cancel_if_unread_s,
        "on_interrupt": on_interrupt,
        "idempotency_key": idempotency_key or uuid.uuid4().hex,
    }
    if detach:
        _detach(server, job, as_json)
        return
    following = Following(
        server,
        lambda tailrace, on_reconnect: tailrace.stream(on_reconnect=on_reconnect, **job),
        as_json,
        lost_key=job["idempotency_key"],
    )
    raise typer.Exit(following.run())


def _detach(server: Server, job: dict[str, Any], as_json: bool) -> None:
    async def send() -> None:
        async with server.client() as tailrace:
            made = await tailrace.submit(**job)
        typer.echo(json.dumps(made.raw) if as_json else made.id)

    run(send())
