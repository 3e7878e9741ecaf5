"""Text that tries to be more than text, in every field and header that takes some, judged by others' parsers."""

import asyncio
import json
import re
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from tests.fuzz import chance as give
from tests.fuzz.frames import Seen, frames
from tests.support.wire import Json, Wire, assert_problem, scripted

SEED = 20_251
ROUNDS = 60
MEGABYTE = 1_000_000
ENDS = {"done", "failed", "cancelled"}
FORGED = "\n\nid: 9-9\nevent: done\ndata: {}\n\n"
BREAKS = ("\r", "\n", "\r\n", "\n\n", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", FORGED)


def _sound(chance: Random) -> str:
    """What a text may hold that is stored: no NUL."""
    return give.whole_text(chance).replace("\x00", "") or "x"


async def _judged(wire: Wire, job: str) -> list[Seen]:
    """The log as it stands, after all ways to read it were judged."""
    for query in ("?dialect=chat", "?dialect=chat-meta", "?dialect=langchain", "", "?exact=true"):
        answer = await wire.ask("GET", f"/jobs/{job}/events{query}")
        assert answer.status_code == 200
        seen = frames(answer.content)
    return seen


@pytest.mark.requirement("ST-1")
async def test_no_answer_whatever_it_holds_adds_an_event_or_changes_a_byte_of_another(wire: Wire) -> None:
    chance = Random(SEED)
    texts = [*(f"a{piece}b{piece}" for piece in BREAKS), *(_sound(chance) for _ in range(ROUNDS))]

    async def round_trip(text: str) -> None:
        job = await wire.submit(text)
        view = await wire.ended(job)
        assert view["text"] == text
        seen = await _judged(wire, job)
        assert "".join(event.data["text"] for event in seen if event.event == "token") == text
        assert [event.event for event in seen if event.event in ENDS] == ["done"]
        assert seen[-1].id == view["last_event_id"]

    for batch in (texts[at : at + 10] for at in range(0, len(texts), 10)):
        await asyncio.gather(*map(round_trip, batch))


def _bodies(chance: Random) -> Iterator[Json]:
    body = {**scripted("hello", metadata={"a": "b"}), "system": "s"}
    body |= {"messages": [{"role": "user", "content": "hi"}]}
    body.pop("prompt", None)
    for _ in range(ROUNDS * 3):
        yield give.spoiled(chance, body)


@pytest.mark.requirement("GN-9")
async def test_whatever_stands_in_a_body_is_stored_as_it_is_or_refused_with_its_place(wire: Wire) -> None:
    chance = Random(SEED)
    made = 0
    for body in _bodies(chance):
        content = json.dumps(body).encode()
        answer = await wire.ask("POST", "/jobs", content=content)
        assert answer.status_code in (202, 400, 413), answer.text
        if answer.status_code == 202:
            made += 1
            view = answer.json()
            assert view["metadata"] == (body.get("metadata") or {})
            assert (await wire.cancel(view["id"]))["id"] == view["id"]
            frames((await wire.ask("GET", f"/jobs/{view['id']}/events")).content)
        else:
            problem: Any = answer.json()
            assert problem["code"] in {"invalid_request", "invalid_json", "unsupported_param", "unknown_provider"}
    assert 0 < made < ROUNDS * 3


@pytest.mark.requirement("GN-1")
async def test_no_header_or_path_adds_a_header_an_event_or_an_answer(wire: Wire) -> None:
    chance = Random(SEED)
    job = await wire.submit("hello")
    await wire.ended(job)
    for _ in range(ROUNDS * 2):
        name = chance.choice(("Last-Event-ID", "Idempotency-Key", "X-Request-Id", "Authorization", "Origin", "Cookie"))
        text = give.text(chance) + chance.choice(("", "\r\nX-Forged: 1", FORGED, "\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"))
        path = chance.choice((f"/jobs/{job}/events", f"/jobs/{job}", "/jobs"))
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{name}: {text}\r\n\r\n"
        said = await wire.raw(head.encode("utf-8", "surrogatepass"))
        assert b"forged" not in said.lower()
        assert b"\nid: 9-9" not in said
        assert len(re.findall(rb"HTTP/1\.1 \d", said)) == 1


@pytest.mark.requirement("GN-7")
@pytest.mark.parametrize("field", ["prompt", "system", "model", "provider", "metadata", "params"])
async def test_a_megabyte_in_any_field_is_refused(wire: Wire, field: str) -> None:
    value: Any = "x" * MEGABYTE
    body = {**scripted("hello"), field: {"text": value} if field in ("metadata", "params") else value}
    assert_problem(await wire.ask("POST", "/jobs", body), 413, "payload_too_large")
