"""What each tenant and key may use: the limits of the settings, with others for some tenants from a file.

Requests, readers, prompts and `max_tokens` are counted by key: one key that runs wild takes nothing from the others of
its tenant. Jobs and tokens a day are counted by tenant, or whoever may make keys could fill them up again at will.
"""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec

from shared.principals import TENANT
from shared.settings import Settings

_Count = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one tenant and of each of its keys; 0: none. Their meaning stands at the settings."""

    requests_per_s: float = 0.0
    request_burst: int = 200
    readers: int = 0
    readers_per_job: int = 0
    max_tokens: int = 0
    prompt_bytes: int = 0
    open_jobs: int = 0
    running_jobs: int = 0
    tokens_per_day: int = 0
    store_percent: float = 0.0

    @property
    def on_readers(self) -> bool:
        """Whether readers are counted at all."""
        return bool(self.readers or self.readers_per_job)


NONE = Limits()


class _Others(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tenant's part of the file: what is left out is as the settings have it."""

    requests_per_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    request_burst: Annotated[int, msgspec.Meta(ge=1)] | None = None
    readers: _Count | None = None
    readers_per_job: _Count | None = None
    max_tokens: _Count | None = None
    prompt_bytes: _Count | None = None
    open_jobs: _Count | None = None
    running_jobs: _Count | None = None
    tokens_per_day: _Count | None = None
    store_percent: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None


def setting_of(limit: str) -> str:
    """The name of the setting that has the default of a limit."""
    by_tenant = limit in ("open_jobs", "running_jobs", "tokens_per_day", "store_percent")
    return f"tenant_{limit}" if by_tenant else f"key_{limit}"


class LimitTable:
    """Every tenant's limits. ValueError, which names file and field, where the file is not sound."""

    def __init__(self, settings: Settings) -> None:
        named = {limit: setting_of(limit) for limit in _Others.__struct_fields__}
        self._common = _settled(Limits(**{limit: getattr(settings, name) for limit, name in named.items()}))
        # On an open node everybody is one principal, on one's own machine: only what somebody has asked for is limited.
        asked = {limit for limit, name in named.items() if name in settings.model_fields_set}
        self._open = _settled(Limits(**{limit: getattr(settings, named[limit]) for limit in asked}))
        self._others = read_limits(settings.limits_file) if settings.limits_file else {}
        self._made: dict[tuple[str, bool], Limits] = {}

    def of(self, tenant: str, *, keyed: bool = True) -> Limits:
        """The limits of `tenant`; `keyed`: on an installation that has keys."""
        made = self._made.get((tenant, keyed))
        if made is None:
            made = self._common if keyed else self._open
            others = self._others.get(tenant)
            if others is None:
                return made
            made = self._made[tenant, keyed] = _with(made, others)
        return made

    @property
    def running_jobs(self) -> dict[str, int]:
        """Tenant → jobs that may run at once (0: any number), of those who have limits of their own."""
        return {tenant: self.of(tenant).running_jobs for tenant in self._others}

    def counts_tokens(self, tenant: str) -> bool:
        """Whether what the tenant's jobs use is counted; there need be no keys for it."""
        return bool(self.of(tenant).tokens_per_day)


def _with(limits: Limits, others: _Others) -> Limits:
    named = {name: getattr(others, name) for name in _Others.__struct_fields__}
    return _settled(replace(limits, **{name: value for name, value in named.items() if value is not None}))


def _settled(limits: Limits) -> Limits:
    """NONE itself, where nothing is limited: so that whoever asks often can see it at once."""
    return NONE if replace(limits, request_burst=NONE.request_burst) == NONE else limits


def read_limits(path: str) -> dict[str, _Others]:
    """Tenant → its limits, from TOML (`[acme]`, `requests_per_s = 200`), or JSON of the same shape in a `*.json`.

    ValueError, which names the file, and the field where it is one, for what cannot be read or is not that.
    """
    where = f"TAILRACE_LIMITS_FILE {path}"
    try:
        text = Path(path).read_text()
        table = msgspec.json.decode(text) if path.endswith(".json") else tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} cannot be read: {type(error).__name__}") from None
    except (msgspec.DecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{where}: {error}") from None
    if not isinstance(table, dict):
        raise ValueError(f"{where}: is a table of tenants")  # noqa: TRY004 - it is the file's value that is wrong
    found = {}
    for tenant, part in table.items():
        if not TENANT.fullmatch(tenant):
            raise ValueError(f"{where}: {tenant!r} is no tenant: letters, digits, - and _")
        try:
            found[tenant] = msgspec.convert(part, _Others)
        except msgspec.ValidationError as error:
            raise ValueError(f"{where}, {tenant}: {error}") from None
    return found
