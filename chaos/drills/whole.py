"""Connections that are dropped at every place, and texts of everything that text is made of: the reader has the log."""

import asyncio
import hashlib
import random
from collections.abc import Sequence

from tailrace_client import AsyncTailrace

from chaos.drills._answers import mismatches, submit
from chaos.drills._event_source import Cuts, EventSource
from chaos.drills.frame import Drill, Figure, at_least, exactly
from tests.support.cluster import Cluster, running_cluster
from tests.support.provider_behaviour import Behaviour
from tests.support.provider_server import ProviderServer

SEED = 1
READERS = 20
LONGEST_STRETCH_BYTES = 1500
INDEXED_TOKENS = 120
RESTARTED = {"fault": {"kind": "drop", "after": 60, "attempts": 1}}


async def resume_everywhere(count: int) -> Sequence[Figure]:
    """A drop at every event of a log that restarts once, then `count` drops at random bytes of running jobs."""
    with running_cluster() as cluster:
        dropped, wrong_rests = await _every_index(cluster)
        readers = await _random_drops(cluster, count)
        wrong = await mismatches(cluster.url, "", readers)
        resumes = sum(len(reader.back_at) for reader in readers)
        holes, doubled = (sum(getattr(reader, name) for reader in readers) for name in ("holes", "doubled"))
    return [
        at_least("events at which a reader was dropped", dropped, INDEXED_TOKENS),
        exactly("rests that are not the log's", wrong_rests, 0),
        at_least("random drops, each resumed", resumes, count),
        exactly("readers whose events are not the log's", wrong, 0),
        exactly("events lost or out of order", holes, 0),
        exactly("events doubled", doubled, 0),
    ]


async def _every_index(cluster: Cluster) -> tuple[int, int]:
    """Begin after each event of a log that has a reset in it: how many places, and how many wrong rests."""
    async with AsyncTailrace(cluster.url) as tailrace:
        job = await submit(tailrace, tokens=INDEXED_TOKENS, **RESTARTED)
    first = EventSource(cluster.url, job)
    await first.read()
    wrong = 0
    for index in range(1, len(first.frames)):
        rest = EventSource(cluster.url, job, frames=first.frames[:index])
        await rest.read()
        wrong += rest.shown != first.shown
    return len(first.frames), wrong


async def _random_drops(cluster: Cluster, count: int) -> list[EventSource]:
    """Readers of jobs that run, dropped at random bytes until all of `count` drops are used up."""
    readers: list[EventSource] = []
    left, turn = count, 0
    while left > 0:
        async with AsyncTailrace(cluster.url) as tailrace:
            jobs = [
                await submit(tailrace, tokens=1500, tokens_per_s=100, seed=SEED + turn, **RESTARTED) for _ in range(4)
            ]
        share = -(-left // READERS)
        cuts = [Cuts(random.Random(f"{SEED}/{turn}/{n}"), LONGEST_STRETCH_BYTES, share) for n in range(READERS)]
        fresh = [EventSource(cluster.url, jobs[n % 4], retry_s=0.0, cuts=cuts[n]) for n in range(READERS)]
        await asyncio.gather(*(reader.read() for reader in fresh))
        readers += fresh
        left -= sum(len(reader.back_at) for reader in fresh)
        turn += 1
    return readers


def _all_of_unicode() -> str:
    """Every code point that text may hold, but NUL, and what has broken stream formats before in between."""
    points = [chr(point) for point in range(1, 0x110000) if not 0xD800 <= point <= 0xDFFF]
    nasty = ["\r\n", "\n\n", "\r", " leading", "  two", "\n\nevent: done\ndata: {}\n\n", ": ka\n", "e\u0301", "\u2028"]
    return "".join(nasty) + "".join(points) + "".join(f" {part}" for part in nasty)


def _pieces(text: str, chance: random.Random, longest: int) -> tuple[str, ...]:
    found, at = [], 0
    while at < len(text):
        size = chance.randint(1, longest)
        found.append(text[at : at + size])
        at += size
    return tuple(found)


async def byte_exact(count: int) -> Sequence[Figure]:
    """All of Unicode through each vendor's SDK, and `count` times a sample of it sent byte by byte."""
    chance, text = random.Random(SEED), _all_of_unicode()
    sent: list[str] = []
    found: list[tuple[str, str, str]] = []
    async with ProviderServer() as server:
        with running_cluster(env=server.environment) as cluster:
            for provider in ("openai", "anthropic"):
                server.script(Behaviour(pieces=_pieces(text, chance, 2000)))
                sent.append(text)
                found.append(await _answer(cluster, provider))
                for _ in range(count):
                    sample = "".join(chance.choices(text, k=300)) + "".join(chance.choices(text[:600], k=300))
                    server.script(Behaviour(pieces=_pieces(sample, chance, 7), cut="utf8"))
                    sent.append(sample)
                    found.append(await _answer(cluster, provider))
    sums = [{_sum(text) for text in (*three, one)} for three, one in zip(found, sent, strict=True)]
    return [
        at_least("answers", len(found), 2 * count + 2),
        at_least("code points, all but NUL and surrogates", len(set(text)), 0x110000 - 2048 - 1),
        exactly("answers whose sha256 is another live, replayed or shown", sum(len(one) != 1 for one in sums), 0),
    ]


async def _answer(cluster: Cluster, provider: str) -> tuple[str, str, str]:
    """The text as it is read while it comes, replayed event by event, and shown."""
    async with AsyncTailrace(cluster.url) as tailrace, asyncio.timeout(120):
        stream = tailrace.stream(provider=provider, model="text", prompt="say it")
        live = (await stream.finish()).text
        job = str(stream.job_id)
        replay = (await tailrace.events(job, exact=True).finish()).text
        return live, replay, (await tailrace.job(job)).text


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


DRILLS = (
    Drill("resume-everywhere", (1, 2, 3), "whoever comes back misses nothing and sees nothing twice", 10_000,
          resume_everywhere),
    Drill("byte-exact", (4,), "the text arrives byte for byte, whatever it is made of", 50, byte_exact),
)  # fmt: skip
