"""What comes in twice, and cursors that are none: one job and one paid call; a refusal, and never the whole log."""

import asyncio
import random
import string
from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

from chaos.drills.frame import Drill, Figure, at_least, exactly
from tests.support.cluster import running_cluster
from tests.support.provider_server import ProviderServer
from tests.support.sse_reader import SseReader
from tests.support.wire import Json, Wire

AT_ONCE = 100
SEED = 1
_WORDS = ("", "-1", "0", "0-0")
"""What means the start, where the whole log is what was asked for."""
_ALPHABETS = (string.digits + "-", string.printable, "0123456789-+ .eExX$*", "".join(map(chr, range(1, 256))))


async def duplicate_posts(count: int) -> Sequence[Figure]:
    """`count` times a hundred equal POSTs at once, half of them at another node, and one with another body."""
    answers: Counter[int] = Counter()
    ids, others, calls = [], Counter[int](), []
    async with ProviderServer() as server:
        with running_cluster(api=2, env=server.environment) as cluster:
            async with Wire(cluster.urls[0]) as first, Wire(cluster.urls[1]) as second:
                for number in range(count):
                    before, key = len(server.requests), f"drill-{number}"
                    posts = [(first, second)[n % 2].create(_asked(number), key=key) for n in range(AT_ONCE)]
                    found = await asyncio.gather(*posts)
                    answers.update(answer.status_code for answer in found)
                    ids.append(len({answer.json()["id"] for answer in found}))
                    await first.ended(found[0].json()["id"])
                    calls.append(len(server.requests) - before)
                    others[(await second.create(_asked(-1), key=key)).status_code] += 1
    return [
        at_least("equal POSTs", sum(answers.values()), count * AT_ONCE),
        exactly("answers by status", dict(answers), {202: count, 200: count * (AT_ONCE - 1)}),
        exactly("jobs for each key", set(ids), {1}),
        exactly("calls of the provider for each key", set(calls), {1}),
        exactly("answers to another body under the key", dict(others), {409: count}),
    ]


def _asked(number: int) -> Json:
    return {"provider": "openai", "model": "gpt-x", "prompt": f"question {number} tokens:5"}


async def fuzz_cursors(count: int) -> Sequence[Figure]:
    """`count` strings as Last-Event-ID, in the header and in the query, of a finished job."""
    chance = random.Random(SEED)
    with running_cluster() as cluster:
        async with Wire(cluster.url) as wire:
            job = await wire.submit("one two three four five")
            whole = await wire.log(job)
        known = [name for name in whole.ids if name]
        outcomes: Counter[str] = Counter()
        given = [_cursor(chance, known) for _ in range(count)]
        for start in range(0, count, 50):
            asked = [_ask(cluster.url, job, cursor, known) for cursor in given[start : start + 50]]
            for found in await asyncio.gather(*asked):
                outcomes.update(found)
    wrong = {name: many for name, many in outcomes.items() if name.startswith("!")}
    return [
        at_least("strings, each in the header and in the query", outcomes.total() / 2, count),
        exactly("answers but 200, 204 and 400, and whole logs for garbage", wrong, {}),
        at_least("refused with 400", outcomes["400"], count / 4),
        at_least("snapshots for what the log does not hold", outcomes["200 snapshot"], count / 20),
        at_least("rests for what it holds", outcomes["200 rest"], 1),
        at_least("nothing after the end", outcomes["204"], 1),
    ]


def _cursor(chance: random.Random, known: list[str]) -> str:
    """A string that is, looks like, or does not look like a cursor."""
    kind = chance.randrange(8)
    if kind == 0:
        return chance.choice([*known, *_WORDS, "$"])
    if kind == 1:
        return f"{chance.randrange(2**65)}-{chance.randrange(2 ** chance.choice((4, 32, 64, 66)))}"
    if kind == 2:
        letters = list(chance.choice(known))
        letters[chance.randrange(len(letters))] = chance.choice(string.printable[:94])
        return "".join(letters)
    if kind == 3:
        return chance.choice(known) + chance.choice((" ", "\t", "\x00", "-", "-1", "\u00a0", ",", ";q=1", "9" * 30))
    if kind == 4:
        return chance.choice("0123456789-$x") * chance.choice((1, 2, 19, 20, 21, 300, 6000))
    return "".join(chance.choices(chance.choice(_ALPHABETS), k=chance.randint(1, 40)))


async def _ask(url: str, job: str, cursor: str, known: list[str]) -> list[str]:
    """What the two ways to give a cursor are answered with."""
    plain = cursor.replace("\r", "").replace("\n", "")  # a header's line ends there
    header = b"Last-Event-ID: " + plain.encode("latin-1", "replace") + b"\r\n"
    query = f"?last_event_id={quote(cursor, safe='')}"
    return [
        await _outcome(url, f"/jobs/{job}/events", header, plain.strip(" \t"), known),
        await _outcome(url, f"/jobs/{job}/events{query}", b"", cursor.strip(" "), known),
    ]


async def _outcome(url: str, path: str, header: bytes, cursor: str, known: list[str]) -> str:
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode() + header + b"\r\n"
    async with Wire(url) as wire:
        answer = await wire.raw(request)
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ")[1].decode() if b" " in head else "none"
    if status in ("204", "400"):
        return status
    if status != "200":
        return f"!{status} {cursor!r}"
    reader = SseReader()
    reader.feed(b"".join(line + b"\n" for line in body.split(b"\n")[:-1] if b":" in line or not line.strip()))
    names = [frame.event for frame in reader.frames]
    if names[:1] == ["queued"]:
        return "200 whole" if cursor in _WORDS else f"!whole log {cursor!r}"
    if names[:1] == ["reset"]:
        return "200 snapshot" if cursor not in known else f"!snapshot {cursor!r}"
    return "200 rest" if cursor in known else f"!rest {cursor!r}"


DRILLS = (
    Drill("duplicate-post", (19,), "asking a hundred times at once is asking once", 20, duplicate_posts),
    Drill("cursor-fuzz", (32,), "no cursor makes an error, and garbage no replay", 5000, fuzz_cursors),
)
