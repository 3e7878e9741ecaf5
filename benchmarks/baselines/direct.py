"""The tutorial's direct path (D): FastAPI, the openai SDK and StreamingResponse; the answer dies with its connection.

`POST /chat` {"model", "prompt"} answers one `data:` frame a chunk. The form is the good one: the asynchronous client,
one for the process, closed with the stream. (Most tutorials paste the synchronous client, which serves one at a time.)
"""

import json
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

from benchmarks.baselines.serving import serve

app = FastAPI()
client = AsyncOpenAI(base_url=os.environ["PROVIDER_URL"], api_key="x")


class Ask(BaseModel):
    """What is asked for."""

    model: str
    prompt: str = "x"


@app.post("/chat")
async def chat(ask: Ask) -> StreamingResponse:
    """The answer, while it is made."""
    return StreamingResponse(answer(ask), media_type="text/event-stream")


async def answer(ask: Ask) -> AsyncIterator[str]:
    """One frame for each chunk that has text."""
    stream = await client.chat.completions.create(
        model=ask.model, messages=[{"role": "user", "content": ask.prompt}], stream=True
    )
    async with stream:
        async for chunk in stream:
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield f"data: {json.dumps({'text': text})}\n\n"
    yield "data: [DONE]\n\n"


if __name__ == "__main__":
    serve(app)
