"""How long until a worker has a job, and how long a token is under way: `make bench`.

Pickup: from the answer of POST /jobs to the `start` event in the log, seen by a blocked XREAD. Token: from the
provider's write to the reader's client, every token stamped by the provider itself; beside it the same tokens read by
the openai SDK directly, in the same run, so that the ratio holds on a noisy machine. Exit status 1 if a target of the
contract is missed (pickup p50 ≤ 5 ms on an idle worker; first token p50 ≤ 5 ms after the provider sent it).
"""

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import redis.asyncio as aioredis
from openai import AsyncOpenAI
from tailrace_client import AsyncTailrace

from shared.jobs import JobKey
from shared.storage.keys import job_keys
from tests.support.cluster import running_cluster

PICKUP_P50_MS = 5.0
FIRST_TOKEN_P50_MS = 5.0


@contextlib.contextmanager
def stamping_provider() -> Iterator[str]:
    """The base URL of a provider process."""
    command = [sys.executable, "-m", "benchmarks.stamping_provider"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        process.terminate()


async def pickups(tailrace: AsyncTailrace, store: "aioredis.Redis", count: int) -> list[float]:
    """Milliseconds from the POST's answer to `start` in the log; 0 where it was there before the answer."""
    found = []
    for _ in range(count):
        job = await tailrace.submit(provider="scripted", model="demo", prompt="x", params={"tokens": 1})
        answered = time.perf_counter()
        await store.xread({job_keys(JobKey("default", job.id)).log: "0-1"}, count=1, block=5000)
        found.append((time.perf_counter() - answered) * 1000)
        await tailrace.events(job.id).finish()
    return found


async def token_delays(tailrace: AsyncTailrace, count: int, prompt: str) -> tuple[list[float], list[float]]:
    """Milliseconds from the provider's write to the reader: of each first token, and of all tokens."""
    first, every = [], []
    for _ in range(count):
        fresh = True
        async for event in tailrace.stream(provider="openai", model="bench", prompt=prompt):
            now = time.monotonic_ns()
            if event.type == "token":
                delays = [(now - int(stamp)) / 1e6 for stamp in event.text.split()]
                every += delays
                if fresh:
                    first.append(delays[0])
                    fresh = False
    return first, every


async def direct_delays(base_url: str, count: int, prompt: str) -> tuple[list[float], list[float]]:
    """The same, read by the SDK itself without anything between."""
    first, every = [], []
    async with AsyncOpenAI(base_url=base_url, api_key="bench") as client:
        for _ in range(count):
            delays = []
            stream = await client.chat.completions.create(
                model="bench", messages=[{"role": "user", "content": prompt}], stream=True
            )
            async for chunk in stream:
                now = time.monotonic_ns()
                if chunk.choices and chunk.choices[0].delta.content:
                    delays.append((now - int(chunk.choices[0].delta.content)) / 1e6)
            first.append(delays[0])
            every += delays
    return first, every


def show(name: str, values: list[float]) -> float:
    """Print a row; the median."""
    ordered = sorted(values)
    p50, p99 = statistics.median(ordered), ordered[min(len(ordered) - 1, round(len(ordered) * 0.99))]
    print(f"{name:44} p50 {p50:7.2f} ms   p99 {p99:7.2f} ms   max {ordered[-1]:7.2f} ms   n {len(ordered)}")
    return p50


async def measure(url: str, store_url: str, provider_url: str, count: int) -> bool:
    """Run everything; whether the targets were reached."""
    store = aioredis.Redis.from_url(store_url)
    async with AsyncTailrace(url) as tailrace, contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.aclose)
        await pickups(tailrace, store, 10)
        await token_delays(tailrace, 3, "warm up")
        await direct_delays(provider_url, 3, "warm up")
        pickup = show("pickup: POST answered → start in the log", await pickups(tailrace, store, count))
        through, direct = await token_delays(tailrace, count, "x"), await direct_delays(provider_url, count, "x")
        first = show("first token: provider → reader", through[0])
        first_direct = show("first token: provider → SDK, directly", direct[0])
        paced, paced_direct = (
            await token_delays(tailrace, 5, "rate:50"),
            await direct_delays(provider_url, 5, "rate:50"),
        )
        each = show("each token at 50/s: provider → reader", paced[1])
        each_direct = show("each token at 50/s: provider → SDK, directly", paced_direct[1])
    print(f"\nratio to the SDK alone: first token {first / first_direct:.2f}, each token {each / each_direct:.2f}")
    return pickup <= PICKUP_P50_MS and first <= FIRST_TOKEN_P50_MS


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="jobs per measurement (default 200)")
    count = max(1, min(parser.parse_args().count, 10_000))
    with stamping_provider() as provider_url:
        env = {"OPENAI_BASE_URL": provider_url, "OPENAI_API_KEY": "bench", "TAILRACE_LOG_LEVEL": "warning"}
        with running_cluster(env=env) as cluster:
            reached = asyncio.run(measure(cluster.url, cluster.valkey.url, provider_url, count))
    print("targets reached" if reached else "a target was missed")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
