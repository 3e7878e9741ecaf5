"""`tailrace keys`: making, listing and revoking API keys. It works in the control store itself, as an operator may."""

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.exits import Exit
from cli.key_store import in_store

if TYPE_CHECKING:
    from shared.principals import ApiKey, Right
    from shared.storage.api_keys import ApiKeys

_SPAN = re.compile(r"(?P<count>[1-9]\d{0,5})(?P<unit>[smhdw])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

_KEEP_SIGNING_MS = 31 * 86_400_000
"""Longer than any token lives: those end with their job's deadline and ten minutes."""

keys = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)

StoreUrl = Annotated[
    str | None,
    typer.Option("--redis-url", help="The control store; default: TAILRACE_CONTROL_REDIS_URL or TAILRACE_REDIS_URL."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="The folder of an embedded store, running or not; default, without any URL: TAILRACE_DATA_DIR."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]


@keys.command()
def create(
    tenant: Annotated[str, typer.Argument(help="Whose key; letters, digits, - and _.", show_default=False)],
    rights: Annotated[str, typer.Option(help="Some of submit,read,cancel,admin.")] = "submit,read,cancel",
    expires: Annotated[str, typer.Option(help="When it ends: 90d, 12h, 30m; empty: never.")] = "",
    label: Annotated[str, typer.Option(help="What it is for; shown in lists.")] = "",
    as_json: JsonOption = False,
    redis_url: StoreUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it. It is shown this once: the store keeps its hash.

    Several keys of a tenant live side by side: make the new one, deploy it, revoke the old one.

    \b
    Examples:
      tailrace keys create acme --label backend --expires 90d
      tailrace keys create acme --rights read --label dashboard
      tailrace keys create ops --rights admin --label prometheus
    """
    from shared.principals import TENANT, new_key

    if not TENANT.fullmatch(tenant):
        raise typer.BadParameter("is 1 to 64 letters, digits, - and _", param_hint="TENANT")
    now_ms = time.time_ns() // 1_000_000
    expires_ms = None if not expires else now_ms + _span_s(expires) * 1000
    written, key = new_key(tenant, _rights(rights), now_ms, label=label[:100], expires_ms=expires_ms)
    in_store(redis_url, data_dir, lambda store: store.add(key))
    if as_json:
        typer.echo(json.dumps({"key": written, **_facts(key, None)}))
    else:
        typer.echo(written)
        typer.echo(f"Key {key.id} of {tenant}: {', '.join(key.rights)}. It is not shown again.", err=True)


@keys.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Argument(help="Only this tenant's.", show_default=False)] = None,
    as_json: JsonOption = False,
    redis_url: StoreUrl = None,
    data_dir: DataDir = None,
) -> None:
    """List the keys: whose, for what, until when, and when they were used last (to the minute)."""

    async def read(store: "ApiKeys") -> "list[dict[str, object]]":
        used = await store.last_used()
        return [_facts(key, used.get(key.id)) for key in await store.all() if tenant in (None, key.tenant)]

    rows = in_store(redis_url, data_dir, read)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    names = ("id", "tenant", "rights", "state", "created", "expires", "last_used", "label")
    table = [[name.replace("_", " ").upper() for name in names]]
    table += [[_cell(row[name]) for name in names] for row in rows]
    widths = [max(len(line[place]) for line in table) for place in range(len(names))]
    for line in table:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Its id, as `list` shows it, or the key itself.", show_default=False)],
    redis_url: StoreUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Let a key open nothing any more, within two seconds on every node. It stays on the list."""
    from shared.principals import key_id_of

    key_id, now_ms = key_id_of(key) or key, time.time_ns() // 1_000_000
    if in_store(redis_url, data_dir, lambda store: store.revoke(key_id, now_ms)) is None:
        typer.echo("There is no key of this id; `tailrace keys list` shows those there are.", err=True)
        raise typer.Exit(Exit.MISSING)
    typer.echo(f"Key {key_id} is revoked.", err=True)


@keys.command()
def rotate(
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="For a signing key that leaked: tokens that are out end at once.")
    ] = False,
    redis_url: StoreUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Sign capability tokens with a new key from now on, within two seconds on every node.

    Tokens that are out stay good until they end; the old key goes with the next rotation that comes a month later.
    """
    now_ms = time.time_ns() // 1_000_000
    made = in_store(redis_url, data_dir, lambda store: store.rotate(now_ms, _KEEP_SIGNING_MS, drop_old=drop_old))
    typer.echo(f"Tokens are signed with {made.id} now.", err=True)


def _rights(text: str) -> "frozenset[Right]":
    from shared.principals import Right

    try:
        rights = frozenset(Right(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        rights = frozenset()
    if not rights:
        raise typer.BadParameter(f"is some of {', '.join(Right)}, with commas between", param_hint="--rights")
    return rights


def _span_s(text: str) -> int:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise typer.BadParameter("is a number with s, m, h, d or w behind it: 90d", param_hint="--expires")
    return int(found["count"]) * _UNIT_S[found["unit"]]


def _facts(key: "ApiKey", used_ms: int | None) -> dict[str, object]:
    now_ms = time.time_ns() // 1_000_000
    state = "live" if key.lives(now_ms) else "revoked" if key.revoked_ms is not None else "expired"
    return {
        "id": key.id,
        "tenant": key.tenant,
        "rights": list(key.rights),
        "state": state,
        "created": _time(key.created_ms),
        "expires": _time(key.expires_ms),
        "last_used": _time(used_ms),
        "label": key.label,
    }


def _time(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cell(value: object) -> str:
    from cli.render import harmless

    return harmless(",".join(value) if isinstance(value, list) else str(value or "-"))
