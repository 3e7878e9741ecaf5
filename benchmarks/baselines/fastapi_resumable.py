"""PyPI's fastapi-resumable-stream behind FastAPI, as its README writes it; the provider is read by the openai SDK.

`POST /chat` {"model", "id"?, "detached"?} answers the stream with its id in X-Stream-Id, or, detached, {"id"} at once
(the producer runs either way: it is a task of this process). `GET /chat/{id}?after=CHUNKS` resumes. It runs in a
virtual environment of its own (install.py).
"""

import json
import os
from collections.abc import AsyncIterator
from uuid import uuid4

import redis.asyncio as aioredis
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from fastapi_resumable_stream import (  # type: ignore[import-not-found]
    ActiveStreamRegistry,
    ResumableStream,
    StopController,
    resume_conversation_stream,
    start_conversation_stream,
    streaming_response,
)
from openai import AsyncOpenAI
from pydantic import BaseModel, Field

from benchmarks.baselines.serving import serve

app = FastAPI()
client = AsyncOpenAI(base_url=os.environ["PROVIDER_URL"], api_key="x")
store = aioredis.Redis.from_url(os.environ["REDIS_URL"])
streams, registry, stops = ResumableStream(store), ActiveStreamRegistry(store), StopController(store)


class Ask(BaseModel):
    """What is asked for. `id`: the caller's own, where it wants one; `detached`: do not answer with the stream."""

    model: str
    prompt: str = "x"
    id: str = Field(default_factory=lambda: uuid4().hex)
    detached: bool = False


@app.post("/chat", response_model=None)
async def chat(ask: Ask) -> Response:
    """Start the stream. Conversation and stream are one here, so they share an id."""
    response: Response = await start_conversation_stream(
        streams, registry, stops, ask.id, ask.id, lambda: frames(ask), extra_headers={"X-Stream-Id": ask.id}
    )
    return JSONResponse({"id": ask.id}, 202) if ask.detached else response


@app.get("/chat/{stream_id}", response_model=None)
async def resume(stream_id: str, after: int = 0) -> Response:
    """The stream from its chunk number `after` on."""
    resumed = await resume_conversation_stream(streams, registry, stream_id, after=after)
    if resumed is None:
        return Response(status_code=204)
    response: Response = streaming_response(resumed)
    return response


async def frames(ask: Ask) -> AsyncIterator[str]:
    """One frame for each of the provider's chunks that has text."""
    stream = await client.chat.completions.create(
        model=ask.model, messages=[{"role": "user", "content": ask.prompt}], stream=True
    )
    async for chunk in stream:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            yield f"data: {json.dumps({'text': text})}\n\n"
    yield "data: [DONE]\n\n"


if __name__ == "__main__":
    serve(app)
