"""A provider whose every error quotes a secret: what of it reaches a client, by any way there is."""

import asyncio
from collections.abc import Sequence

from chaos.drills.frame import Drill, Figure, at_least, exactly
from tests.support.cluster import Cluster, running_cluster
from tests.support.provider_frames import SECRET
from tests.support.provider_server import ProviderServer
from tests.support.wire import Wire

STATUSES = ("400", "401", "402", "403", "404", "409", "413", "422", "429", "quota", "500", "502", "503", "529")
FAULTS = (*STATUSES, "error:2")
"""The HTTP errors, and an error frame after two pieces."""
MODELS = {"openai": "gpt-x", "anthropic": "claude-x", "langchain": "openai:gpt-y"}
DIALECTS = ("native", "chat", "chat-meta", "langchain")


async def leak(count: int) -> Sequence[Figure]:
    """`count` times every provider with every error: all that a client can ask for, searched for the secret."""
    searched, leaks, logged, failed, sent = 0, 0, 0, 0, 0
    async with ProviderServer() as server:
        env = {**server.environment, "TAILRACE_RETRY_BASE_S": "0.01", "TAILRACE_RETRY_CAP_S": "0.05"}
        with running_cluster(env=env) as cluster:
            async with Wire(cluster.url) as wire:
                for _ in range(count):
                    for name, model in MODELS.items():
                        for fault in FAULTS:
                            before = len(server.requests)
                            said = await _all_said(wire, name, f"{model}-{fault.partition(':')[0]}", fault)
                            searched += len(said)
                            leaks += sum(_quotes(answer) for answer in said)
                            failed += b"event: failed" in said[0]
                            sent += len(server.requests) > before
            logged = sum(any(part in log for part in _PARTS) for log in _logs(cluster))
    jobs = count * len(MODELS) * len(FAULTS)
    return [
        at_least("jobs to whose calls the provider answered with the secret", sent, jobs),
        exactly("jobs that failed of it", failed, jobs),
        at_least("answers searched", searched, jobs * (3 + len(DIALECTS))),
        exactly("answers with the secret, or a part of it", leaks, 0),
        exactly("processes that logged it", logged, 0),
    ]


async def _all_said(wire: Wire, provider: str, model: str, fault: str) -> list[bytes]:
    """Everything that a client can learn of a job that fails. Its model is its own: other failures do not count for
    whether it is called at all."""
    body = {"provider": provider, "model": model, "prompt": f"fault:{fault}", "on_interrupt": "fail"}
    async with asyncio.timeout(60), wire.streaming("POST", "/jobs", body, headers=_SSE) as tail:
        live = await tail.end()
    job = live.headers["location"].rpartition("/")[2]
    shown = await wire.ask("GET", f"/jobs/{job}")
    listed = await wire.ask("GET", "/jobs", params={"limit": "1"})
    replays = [await wire.events(job, dialect=dialect) for dialect in DIALECTS]
    heads = str([live.headers, shown.headers]).encode()
    return [bytes(live.raw), shown.content, listed.content, heads, *(bytes(replay.raw) for replay in replays)]


_PARTS = (SECRET, SECRET.partition(" ")[0])
_SSE = {"Accept": "text/event-stream", "Content-Type": "application/json"}


def _quotes(said: bytes) -> bool:
    """Whether an answer holds the secret, a part of it, or the provider's request id, which belongs in our logs."""
    return any(part.encode() in said for part in (*_PARTS, "req_1"))


def _logs(cluster: Cluster) -> list[str]:
    return [process.log for process in (*cluster.apis, *cluster.workers)]


DRILLS = (Drill("error-leak", (37,), "no word of a provider's error reaches a client", 1, leak),)
