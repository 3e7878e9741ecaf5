"""How the baselines in Python are served: one uvicorn process with uvloop and httptools, on $PORT of loopback."""

import os
import signal
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from fastapi import FastAPI

LIFE_S = 7200
"""The longest that any baseline lives, in seconds: a harness that was killed leaves nothing behind for ever."""


def serve(app: "FastAPI") -> None:
    """Serve until SIGTERM. Streams that are open then get a second, as the harness has judged them already."""
    signal.alarm(LIFE_S)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
