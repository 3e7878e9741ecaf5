"""The application: routes, errors and the guard put together; its lifespan is the node's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from api import problems
from api.guard import Guard
from api.limits import QUOTA_HEADERS
from api.node import running_node
from api.routes import events, jobs, ops, tokens, tutorial
from api.short_cuts import ShortCuts
from shared.settings import Settings
from shared.telemetry import package_version

_DESCRIPTION = """LLM answers that survive everything between the model and the reader.

`POST /jobs` puts a generation on a queue; `GET /jobs/{id}/events` streams its log over SSE. A reader that comes back
with `Last-Event-ID` misses nothing and sees nothing twice. The whole contract is in PROTOCOL.md.
"""


def create_app(settings: Settings) -> FastAPI:
    """The FastAPI application of one node, without the guard."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running_node(settings) as node:
            app.state.node = node
            yield

    app = FastAPI(
        title="Tailrace",
        version=package_version(),
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # its viewer would be any version that another site serves, on the console's origin
        redoc_url=None,
        redirect_slashes=False,  # such an answer names a scheme, and behind a proxy the wrong one
    )
    problems.install(app)
    for router in (jobs.router, tokens.router, events.router, tutorial.router, ops.router):
        app.include_router(router)
    document = app.openapi

    def openapi() -> dict[str, Any]:
        """FastAPI's document without the 422 that it assumes everywhere: ours is a 400 problem, named at each route."""
        made = document()
        for path in made["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            made["components"]["schemas"].pop(name, None)
        return made

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def guarded(app: FastAPI, settings: Settings) -> ASGIApp:
    """What the server runs: the application behind its guard."""
    served: ASGIApp = Guard(ShortCuts(app), settings.max_body_bytes, settings.body_timeout_s)
    if origins := settings.allowed_origins:
        # Outermost, so that refusals can be read by the page as well.
        served = CORSMiddleware(
            served,
            allow_origins=sorted(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Request-Id"],
            expose_headers=[
                "Location",
                "X-Request-Id",
                "X-Tailrace-Job",
                "Idempotent-Replayed",
                "Retry-After",
                *QUOTA_HEADERS,
            ],
            allow_credentials=True,
        )
    return served
