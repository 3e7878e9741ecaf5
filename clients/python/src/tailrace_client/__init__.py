"""Tailrace's client library: submit a generation, follow its events, resume without a loss."""

from tailrace_client.client import AsyncTailrace
from tailrace_client.errors import (
    ApiError,
    BrokenStreamError,
    BusyError,
    ConflictError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    TailraceError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
)
from tailrace_client.events import Event, EventId
from tailrace_client.jobs import Job, JobPage, NewJob, OnInterrupt, Status
from tailrace_client.patience import Patience, Reconnect
from tailrace_client.stream import Stream
from tailrace_client.transcript import Transcript
from tailrace_client.wholeness import Counters

__all__ = [
    "ApiError",
    "AsyncTailrace",
    "BrokenStreamError",
    "BusyError",
    "ConflictError",
    "Counters",
    "Event",
    "EventId",
    "GoneError",
    "InvalidRequestError",
    "Job",
    "JobPage",
    "NewJob",
    "NotFoundError",
    "OnInterrupt",
    "Patience",
    "Reconnect",
    "Status",
    "Stream",
    "TailraceError",
    "Transcript",
    "UnauthorizedError",
    "UnavailableError",
    "UnreachableError",
]
