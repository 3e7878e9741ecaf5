"""The queue that every tutorial ends with, its API: a job goes to arq, and each reader blocks in an XREAD of its own.

`POST /jobs` answers {"id"}; `GET /jobs/{id}/events` honours Last-Event-ID. Beside it: naive_worker.py.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import uuid4

import redis.asyncio as aioredis
from arq import create_pool
from arq.connections import RedisSettings
from fastapi import FastAPI, Header
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from benchmarks.baselines.serving import serve

store = aioredis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)


class Ask(BaseModel):
    """What is asked for. `id`: the caller's own, where it wants one."""

    model: str
    prompt: str = "x"
    id: str = Field(default_factory=lambda: uuid4().hex)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The queue's connections live as long as the process."""
    app.state.queue = await create_pool(RedisSettings.from_dsn(os.environ["REDIS_URL"]))
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/jobs", status_code=202)
async def create(ask: Ask) -> dict[str, str]:
    """Put a job on the queue."""
    await app.state.queue.enqueue_job("generate", ask.id, ask.model, ask.prompt)
    return {"id": ask.id}


@app.get("/jobs/{job_id}/events")
async def events(job_id: str, last_event_id: Annotated[str, Header()] = "0-0") -> StreamingResponse:
    """The job's entries after the cursor, and those to come."""
    return StreamingResponse(tail(f"job:{job_id}", last_event_id), media_type="text/event-stream")


async def tail(key: str, cursor: str) -> AsyncIterator[str]:
    """Frames until the entry that says done."""
    while True:
        for _, entries in await store.xread({key: cursor}, block=15_000):
            for entry_id, fields in entries:
                cursor = entry_id
                if "done" in fields:
                    yield f"id: {cursor}\ndata: [DONE]\n\n"
                    return
                yield f"id: {cursor}\ndata: {json.dumps({'text': fields['text']})}\n\n"


if __name__ == "__main__":
    serve(app)
