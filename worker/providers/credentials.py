"""Whose key a call is made with: the tenant's own where the installation's file names one, else the installation's.

The file is looked at before each call and read anew when it has changed; one that cannot be read then leaves things as
they were. Keys stand in this process alone: in no job, no log line and no exception.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from shared.errors import ProviderError, TailraceError
from shared.principals import TENANT

log = logging.getLogger(__name__)

VENDORS = frozenset({"openai", "anthropic"})
"""Who takes keys of tenants."""
MOST_CLIENTS = 256
"""Clients of one vendor kept for tenants' keys. They share one pool of connections: each is a small object."""

C = TypeVar("C")


class ProviderKeys:
    """The tenants' own keys. `path`: the file of `tenant:provider:key`, one a line; empty: there are none."""

    def __init__(self, path: str) -> None:
        """TailraceError where the file cannot be read, or is none of that kind: a worker must not start without; or
        where the environment has headers for the SDKs, which would go out in the place of tenants' keys."""
        self._path = Path(path) if path else None
        self._stamp: tuple[int, ...] = ()
        self._table: dict[tuple[str, str], str] = {}
        if self._path is not None:
            for name in (f"{vendor.upper()}_CUSTOM_HEADERS" for vendor in sorted(VENDORS)):
                if os.environ.get(name):
                    raise TailraceError(
                        "provider_not_configured",
                        f"{name} would go out with tenants' own keys, and may replace them: unset it, or "
                        "TAILRACE_PROVIDER_KEYS_FILE.",
                    )
            try:
                self._read(self._path)
            except (OSError, ValueError) as error:
                raise TailraceError("provider_not_configured", _what(error)) from None

    def of(self, tenant: str, vendor: str) -> str | None:
        """The tenant's own key for a vendor."""
        if self._path is None:
            return None
        try:
            self._read(self._path)
        except (OSError, ValueError) as error:
            stamp, self._stamp = self._stamp, (0,)  # look again, but say it once
            if stamp != (0,):
                log.error("%s; the keys from before stay", _what(error))  # noqa: TRY400 - the trace says no more
        return self._table.get((tenant, vendor))

    def _read(self, path: Path) -> None:
        found = path.stat()
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._stamp:
            self._table = _parse(path.read_text())
            self._stamp = stamp


def _what(error: Exception) -> str:
    reason = str(error) if type(error) is ValueError else f"cannot be read: {type(error).__name__}"
    return f"TAILRACE_PROVIDER_KEYS_FILE {reason}"


def _parse(text: str) -> dict[tuple[str, str], str]:
    """ValueError, which shows nothing of the line, for one that is not `tenant:provider:key`."""
    table: dict[tuple[str, str], str] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line.startswith("#"):
            continue
        tenant, _, rest = line.partition(":")
        vendor, _, key = rest.partition(":")
        sound = key.isascii() and key.isprintable() and key and " " not in key
        if not TENANT.fullmatch(tenant) or vendor not in VENDORS or not sound:
            raise ValueError(f"line {number} is not tenant:provider:key; a provider is one of {', '.join(VENDORS)}")
        if table.setdefault((tenant, vendor), key) != key:
            raise ValueError(f"line {number} names a second key for a tenant and provider")
    return table


NO_KEYS = ProviderKeys("")


class Clients(Generic[C]):
    """One client for each key: a tenant's key is never in a client that serves another."""

    def __init__(self, vendor: str, keys: ProviderKeys, make: Callable[[str | None], C]) -> None:
        """`make`: a client for a tenant's key, or for the installation's own (None). It has nothing to be closed."""
        self._vendor = vendor
        self._keys = keys
        self._make = make
        self._made: dict[str | None, C] = {}

    def of(self, tenant: str) -> C:
        """The client for a tenant's calls. ProviderError where there is no key."""
        key = self._keys.of(tenant, self._vendor)
        client = self._made.pop(key, None) or self._make(key)
        self._made[key] = client  # the one used last stands last
        if len(self._made) > MOST_CLIENTS:
            del self._made[next(iter(self._made))]
        return client

    def __len__(self) -> int:
        return len(self._made)


def credentials(vendor: str, key: str | None) -> tuple[str, str]:
    """`(key, base URL)`: from `<VENDOR>_API_KEY`, unless the tenant has a `key`, and `<VENDOR>_BASE_URL`; an empty URL
    stands for the vendor's own. A job has no say in either.

    A local server, named by its URL, may want no key; the SDKs do, and get a placeholder. With neither set:
    ProviderError(provider_not_configured).
    """
    prefix = vendor.upper()
    key = key or os.environ.get(f"{prefix}_API_KEY", "").strip()
    base_url = os.environ.get(f"{prefix}_BASE_URL", "").strip()
    if not key and not base_url:
        raise ProviderError("provider_not_configured", f"Set {prefix}_API_KEY in the workers' environment.")
    return key or "none", base_url
