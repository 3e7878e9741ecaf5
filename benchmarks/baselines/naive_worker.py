"""The queue that every tutorial ends with, its worker: arq as shipped, the openai SDK, one awaited XADD a token.

Run by `python -m arq benchmarks.baselines.naive_worker.WorkerSettings`. Only `max_jobs` and the time-out are raised
over arq's defaults (10 jobs, 300 s), with which no load could be measured at all; its poll of 0.5 s stays.
"""

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

from arq.connections import RedisSettings
from openai import AsyncOpenAI

LIFE_S = 7200
"""As in serving.py, which needs uvicorn and is no business of a worker."""
RETENTION_S = 3600
READY = Path(os.environ["FOLDER"], "worker.ready")

client = AsyncOpenAI(base_url=os.environ["PROVIDER_URL"], api_key="x")


async def generate(context: dict[str, Any], job_id: str, model: str, prompt: str) -> None:
    """Ask the provider, and append each chunk's text to the job's stream."""
    store, key = context["redis"], f"job:{job_id}"
    stream = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], stream=True
    )
    async for chunk in stream:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            await store.xadd(key, {"text": text})
    await store.xadd(key, {"done": "1"})
    await store.expire(key, RETENTION_S)


async def begin(_context: dict[str, Any]) -> None:
    """Bound the worker's life, for a harness that is killed, and say that it is ready."""
    signal.alarm(LIFE_S)
    READY.touch()  # noqa: ASYNC240 - once, before there is anything to wait for


class WorkerSettings:
    """What arq's command line reads."""

    functions: ClassVar = [generate]
    on_startup = begin
    redis_settings = RedisSettings.from_dsn(os.environ["REDIS_URL"])
    max_jobs = 5000
    job_timeout = LIFE_S
