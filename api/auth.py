"""Who asks, and may they: a request's key → principal, and the rights that routes demand."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param

from api.node import Node, node_of
from api.tokens import looks_like_token
from shared.errors import TailraceError
from shared.loopback import is_loopback, name_in
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
    if node.keyring.is_open:
        _refuse_other_names(request)
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
    """TailraceError where a browser was made by another site to send its cookie (CSRF).

    A page's own GETs carry no Origin; those of another one do, or are no calls by a script but an image, a frame or a
    link, which browsers mark (Fetch Metadata, W3C).
    """
    origin = request.headers.get("origin")
    if origin is None and request.method in ("GET", "HEAD"):
        sound = request.headers.get("sec-fetch-site", "none") != "cross-site"
    else:
        host = request.headers.get("host", "")
        sound = origin in allowed or origin in (f"http://{host}", f"https://{host}")
    if not sound:
        raise TailraceError("forbidden", "A cookie counts only for requests of this site, or of an allowed origin.")


def _refuse_other_names(request: Request) -> None:
    """TailraceError where a node without keys is asked by a name that is not this machine's: a page whose own name was
    made to mean 127.0.0.1 (DNS rebinding) is of the same origin to its browser, and would read and do everything."""
    if not is_loopback(name_in(request.headers.get("host", ""))):
        raise TailraceError(
            "forbidden",
            "Without API keys this node answers only to names of its own machine, like localhost and 127.0.0.1. "
            "Set TAILRACE_API_KEYS to have it asked by another Host.",
        )


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
