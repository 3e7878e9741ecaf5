"""Who asks, and may they: a request's key → principal, and the rights that routes demand."""

from collections.abc import Awaitable, Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param

from api.node import Node, node_of
from api.tokens import looks_like_token
from shared.errors import TailraceError
from shared.principals import Principal, Right

_bearer = HTTPBearer(auto_error=False, description="An API key; not needed where there is none.")


COOKIE = "tailrace_token"
"""Holds a capability token; set for the path of its job alone."""


async def principal_of(request: Request) -> Principal:
    """Who sent the request: by `Authorization: Bearer`, or by a capability token as `?token=` or cookie. Counted, once,
    as one of its requests.

    TailraceError `unauthorized` where nothing of that opens anything; `forbidden` for a cookie that another site sent;
    `rate_limited` where too many come.
    """
    node = node_of(request)
    try:
        principal = await _principal_of(request, node)
    except TailraceError as error:
        if error.code == "unauthorized":
            node.limiter.failed(request.scope)
        raise
    await node.limiter.let_pass(principal, request.scope)
    return principal


async def _principal_of(request: Request, node: Node) -> Principal:
    if (header := request.headers.get("authorization")) is not None:
        scheme, given = get_authorization_scheme_param(header)
        return await node.keyring.principal(given if scheme.lower() == "bearer" else "")
    # An API key may stand in no URL: it would stand in logs and histories, too.
    if request.scope["query_string"] and looks_like_token(token := request.query_params.get("token", "")):
        return await node.keyring.principal(token)
    if "cookie" in request.headers and looks_like_token(token := request.cookies.get(COOKIE, "")):
        _refuse_other_sites(request, node.settings.allowed_origins)
        return await node.keyring.principal(token)
    return await node.keyring.principal("")


def _refuse_other_sites(request: Request, allowed: frozenset[str]) -> None:
    """TailraceError where a browser was made by another site to send what changes something (CSRF)."""
    if request.method in ("GET", "HEAD"):
        return
    origin = request.headers.get("origin", "")
    if origin not in allowed and urlsplit(origin).netloc != request.headers.get("host"):
        raise TailraceError("forbidden", "A cookie counts only for requests of this site, or of an allowed origin.")


def demand(principal: Principal, right: Right) -> Principal:
    """The principal, if it has the right; TailraceError `forbidden` if not."""
    if not principal.may(right):
        raise TailraceError("forbidden", f"This key may not {right}: it was made for other uses.")
    return principal


def _with(right: Right) -> Callable[..., Awaitable[Principal]]:
    async def dependency(
        request: Request,
        _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> Principal:
        return demand(await principal_of(request), right)

    return dependency


MaySubmit = Annotated[Principal, Depends(_with(Right.SUBMIT))]
MayRead = Annotated[Principal, Depends(_with(Right.READ))]
MayCancel = Annotated[Principal, Depends(_with(Right.CANCEL))]
MayAdminister = Annotated[Principal, Depends(_with(Right.ADMIN))]
