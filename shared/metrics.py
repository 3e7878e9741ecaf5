"""Every metric: its name, its labels, its meaning. Counted where things happen, shown at /metrics.

A label has few values: our own codes, routes and verdicts. The one that clients can name, a model, is capped. No metric
knows a job or a tenant, and an API node's none that a client has named, for nodes show them without a key.
docs/metrics.md says what to alarm on.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
    start_http_server,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.process_collector import ProcessCollector

from shared.errors import TailraceError
from shared.telemetry import package_version

disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it without annotations

API = CollectorRegistry()
"""What an API node shows."""
WORKER = CollectorRegistry()
"""What a worker shows."""
MOST_MODELS = 50
OTHER = "other"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)

_Metric = TypeVar("_Metric", bound=MetricWrapperBase)


def _both(metric: _Metric) -> _Metric:
    API.register(metric)
    WORKER.register(metric)
    return metric


# -- of every process
_both(Info("tailrace_build", "Which code runs", registry=None)).info({"version": package_version()})
for _registry in (API, WORKER):
    ProcessCollector(registry=_registry)
JOBS_ENDED = _both(
    Counter(
        "tailrace_jobs_ended", "Jobs that this process ended, by status and code", ["status", "code"], registry=None
    )
)
REAPER_LEADS = _both(Gauge("tailrace_reaper_leads", "1 where this process leads the reapers", registry=None))
OPEN_JOBS = _both(
    Gauge("tailrace_open_jobs", "Jobs without a terminal event, as the leading reaper sees it", registry=None)
)
REAPER_ACTS = _both(Counter("tailrace_reaper_acts", "What the reaper did with jobs", ["act"], registry=None))

# -- of a worker
SLOTS = Gauge("tailrace_slots", "Generations that this worker may run at once", registry=WORKER)
RUNNING = Gauge("tailrace_jobs_running", "Generations that run in this worker", registry=WORKER)
CLAIMS = Counter("tailrace_claims", "Claims of jobs; each OK starts an attempt", ["verdict"], registry=WORKER)
QUEUE_SECONDS = Histogram(
    "tailrace_queue_seconds",
    "From the POST to the first attempt, of jobs that ended here",
    buckets=_SECONDS,
    registry=WORKER,
)
FIRST_TOKEN_SECONDS = Histogram(
    "tailrace_first_token_seconds", "From the POST to the first content, of jobs that ended here",
    buckets=_SECONDS, registry=WORKER,
)  # fmt: skip
JOB_SECONDS = Histogram(
    "tailrace_job_seconds", "From the POST to the end, of jobs that ended here", buckets=_SECONDS, registry=WORKER
)
PROVIDER_CALLS = Counter(
    "tailrace_provider_calls", "Calls to providers, by how they ended", ["provider", "outcome"], registry=WORKER
)
PROVIDER_RETRIES = Counter(
    "tailrace_provider_retries", "Retries that were wanted, and whether the budget gave them", ["provider", "decision"],
    registry=WORKER,
)  # fmt: skip
CIRCUITS_OPEN = Gauge(
    "tailrace_circuits_open", "Circuits that are open or probed now", ["provider", "model"], registry=WORKER
)
CIRCUIT_OPENINGS = Counter("tailrace_circuit_openings", "Circuits that opened", ["provider", "model"], registry=WORKER)
CIRCUIT_REFUSALS = Counter(
    "tailrace_circuit_refusals", "Calls that were not made for an open circuit", ["provider"], registry=WORKER
)
APPENDS = Counter("tailrace_appends", "Batches sent to logs, by the store's verdict", ["verdict"], registry=WORKER)
APPEND_ERRORS = Counter(
    "tailrace_append_errors", "Batches that the store did not take; they are sent again", ["code"], registry=WORKER
)
RENEWALS = Counter(
    "tailrace_lease_renewals", "Renewals of leases, by the store's verdict", ["verdict"], registry=WORKER
)
COMPACTIONS = Counter(
    "tailrace_compactions", "Finished logs that were to be rewritten compactly, by verdict", ["verdict"],
    registry=WORKER,
)  # fmt: skip
HANDED_OVER = Counter("tailrace_jobs_handed_over", "Jobs given back unfinished in a drain", registry=WORKER)

# -- of an API node
REQUESTS = Counter(
    "tailrace_http_requests", "Requests, by route and status", ["method", "route", "status"], registry=API
)
REFUSALS = Counter(
    "tailrace_refusals", "Requests refused and readers sent away for a limit or for load", ["limit"], registry=API
)
CONNECTIONS = Gauge("tailrace_connections", "Connections that are open now", registry=API)
CONNECTIONS_REFUSED = Counter(
    "tailrace_connections_refused",
    "Connections that were one too many, by what there was not enough of",
    ["code"],
    registry=API,
)
CONNECTIONS_CUT = Counter(
    "tailrace_connections_cut", "Connections cut for what their clients did or did not", ["how"], registry=API
)
READERS = Gauge("tailrace_readers", "Event streams that are open now", registry=API)
STREAMS = Counter("tailrace_streams", "Event streams begun, by where they start", ["start"], registry=API)
STREAM_ENDS = Counter("tailrace_stream_ends", "Event streams ended, by how", ["how"], registry=API)
EVENTS_SENT = Counter("tailrace_events_sent", "Events written to readers", registry=API)
SNAPSHOTS = Counter("tailrace_snapshots", "Snapshots made for readers whose cursor the log does not hold", registry=API)
LATE_NOTICES = Counter(
    "tailrace_late_notices", "Logs whose news a tick found before their notice came, if it ever came", registry=API
)

_TIMINGS = {"queue_ms": QUEUE_SECONDS, "ttft_ms": FIRST_TOKEN_SECONDS, "latency_ms": JOB_SECONDS}
_models: set[tuple[str, str]] = set()


def model_label(provider: str, model: str) -> str:
    """The model's name for the first MOST_MODELS that are asked for, then `other`: the same model keeps its label."""
    if (provider, model) not in _models:
        if len(_models) >= MOST_MODELS:
            return OTHER
        _models.add((provider, model))
    return model


def finished(status: str, code: str, timings: Mapping[str, float]) -> None:
    """Count a job that a worker brought to its end; `timings` as its terminal event has them, ms from the POST."""
    JOBS_ENDED.labels(status, code).inc()
    for name, histogram in _TIMINGS.items():
        if name in timings:
            histogram.observe(timings[name] / 1000)


def exposition(registry: CollectorRegistry) -> tuple[bytes, str]:
    """The metrics as Prometheus reads them, and their media type."""
    return generate_latest(registry), CONTENT_TYPE_LATEST


@contextmanager
def served(host: str, port: int) -> Iterator[None]:
    """Show the worker's metrics on a port of their own for the length of the block; port 0: not at all.

    In a thread, so that a worker whose event loop hangs can still be looked at. TailraceError where it cannot listen.
    """
    if not port:
        yield
        return
    try:
        server, thread = start_http_server(port, host, WORKER)
    except OSError as error:
        raise TailraceError(
            "internal",
            f"Cannot show metrics on {host}:{port}: {error.strerror}. Choose another TAILRACE_WORKER_METRICS_PORT.",
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
