"""Who asks: API key → tenant. Without any key configured the node is open, and then bound to loopback only."""

import hmac
import ipaddress
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.node import node_of
from shared.errors import TailraceError
from shared.settings import Settings

OPEN_TENANT = "default"

_bearer = HTTPBearer(auto_error=False, description="An API key; not needed where the node has none configured.")


async def tenant_of(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    """The tenant whose key the request carries; TailraceError `unauthorized` where it carries none that is known."""
    return tenant_by_key(node_of(request).settings, given.credentials if given is not None else "")


def tenant_by_key(settings: Settings, key_given: str) -> str:
    """The tenant of a key; TailraceError `unauthorized` for none that is known."""
    keys = settings.tenants_by_key
    if not keys:
        return OPEN_TENANT
    offered = key_given.encode()
    found = None
    for key, tenant in keys.items():
        # Every key is compared, each in constant time: the answer's delay tells nothing.
        if hmac.compare_digest(key.encode(), offered):
            found = tenant
    if found is None:
        raise TailraceError("unauthorized")
    return found


Tenant = Annotated[str, Depends(tenant_of)]


def refuse_unsafe_binding(settings: Settings) -> None:
    """TailraceError where an open node would listen beyond loopback."""
    if settings.tenants_by_key or _is_loopback(settings.host):
        return
    raise TailraceError(
        "unauthorized",
        f"Without API keys a node listens on loopback only, not on {settings.host}. "
        "Set TAILRACE_API_KEYS=tenant:key, or --host 127.0.0.1.",
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
