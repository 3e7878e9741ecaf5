"""What operators and browsers ask for: liveness, readiness, the console."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.responses import FileResponse, JSONResponse, Response

from api.auth import MayAdminister
from api.problems import documented
from api.routes.common import NodeDep
from shared import metrics
from shared.errors import TailraceError
from shared.telemetry import package_version

router = APIRouter()

_WEB = Path(__file__).parent.parent / "web"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
_FILES = frozenset(path.name for path in _WEB.iterdir() if path.suffix in _TYPES)
_METRICS = 'tailrace_readers 12.0\ntailrace_http_requests_total{method="POST",route="/jobs",status="202"} 345.0\n'
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_VIEWER = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0/"
_DOCS_CSP = _CSP.replace("script-src 'self'", f"script-src 'self' {_VIEWER}").replace(
    "style-src 'self'", f"style-src 'self' 'unsafe-inline' {_VIEWER}"
)
"""It is of the console's origin, which holds a key: the page names the viewer's files by their hashes (SRI)."""
_PAGE_HEADERS = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/healthz", tags=["operations"], summary="Is the process alive?")
async def healthz() -> dict[str, Any]:
    """Says yes for as long as the process serves, whatever the store does."""
    return {"status": "ok", "version": package_version()}


@router.get(
    "/readyz", tags=["operations"], summary="Can it take work?", responses=documented("storage_unavailable", "draining")
)
async def readyz(node: NodeDep) -> Response:
    """Both stores answer, and the node is not draining."""
    if node.leaving.done():
        raise TailraceError("draining", retry_after_s=1)
    await node.control.ping()
    await node.store.ping()
    return JSONResponse({"status": "ready"})


@router.get(
    "/metrics",
    tags=["operations"],
    summary="Metrics of this node",
    response_class=Response,
    responses={
        200: {"description": "As Prometheus reads them", "content": {"text/plain": {"example": _METRICS}}},
        **documented("unauthorized", "forbidden", "rate_limited"),
    },
)
async def show_metrics(_: MayAdminister) -> Response:
    """Of this node alone; nothing in it is a tenant's. docs/metrics.md explains each."""
    body, media_type = metrics.exposition(metrics.API)
    return Response(body, headers={"Content-Type": media_type})


@router.get("/", include_in_schema=False)
async def console() -> Response:
    """The console."""
    return _file("index.html")


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """The API's description, to be read and tried."""
    page = _file("docs.html")
    page.headers["Content-Security-Policy"] = _DOCS_CSP
    return page


@router.get("/console/{name}", include_in_schema=False)
async def console_file(name: str) -> Response:
    """One of the console's own files."""
    if name not in _FILES:
        raise TailraceError("no_such_route")
    return _file(name)


def _file(name: str) -> Response:
    return FileResponse(_WEB / name, media_type=_TYPES[Path(name).suffix], headers=_PAGE_HEADERS)
