"""Idempotency-Key: asking twice is asking once, for as long as the record lives."""

import asyncio
from collections import Counter
from uuid import uuid4

import pytest

from tests.support.wire import Json, Wire, assert_problem, scripted


@pytest.fixture
def key() -> str:
    """A key that nobody has used."""
    return f"key-{uuid4()}"


@pytest.mark.requirement("ID-1")
async def test_the_same_key_and_body_find_the_same_job(wire: Wire, key: str) -> None:
    first = await wire.create(scripted("hello"), key=key)
    job = first.json()["id"]
    await wire.ended(job)
    again = await wire.create(scripted("hello"), key=key)
    assert (first.status_code, again.status_code) == (202, 200)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == f"/jobs/{job}"
    assert again.json() == await wire.show(job)


@pytest.mark.requirement("ID-8")
@pytest.mark.requirement("CR-4")
async def test_a_replay_that_accepts_a_stream_gets_the_same_events(wire: Wire, key: str) -> None:
    headers = {"Accept": "text/event-stream", "Idempotency-Key": key}
    streams = []
    for _ in range(2):
        async with wire.streaming("POST", "/jobs", scripted("hello"), headers=headers) as tail:
            streams.append(await tail.end())
    first, again = streams
    assert (again.ids, again.bodies) == (first.ids, first.bodies)
    assert [stream.headers.get("idempotent-replayed") for stream in streams] == [None, "true"]


@pytest.mark.requirement("ID-2")
@pytest.mark.parametrize(
    "other",
    [scripted("bye"), scripted("hello", priority=6), scripted("hello", model="demo-2"), scripted("hello", ttl_s=9)],
)
async def test_the_same_key_with_another_body_is_a_conflict(wire: Wire, key: str, other: Json) -> None:
    first = await wire.create(scripted("hello"), key=key)
    assert_problem(await wire.create(other, key=key), 409, "idempotency_conflict")
    again = await wire.create(scripted("hello"), key=key)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])


@pytest.mark.requirement("ID-3")
async def test_a_hundred_at_once_make_one_job(wire: Wire, key: str) -> None:
    body = scripted("hello", metadata={"storm": key})
    answers = await asyncio.gather(*(wire.create(body, key=key) for _ in range(100)))
    assert Counter(answer.status_code for answer in answers) == {202: 1, 200: 99}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum(answer.headers.get("idempotent-replayed") == "true" for answer in answers) == 99
    listed = (await wire.ask("GET", "/jobs", params={"limit": "100"})).json()["data"]
    assert [job["metadata"] for job in listed].count({"storm": key}) == 1


@pytest.mark.requirement("ID-3")
async def test_a_hundred_different_bodies_at_once_make_one_job(wire: Wire, key: str) -> None:
    bodies = [scripted("hello", metadata={"n": str(n), "storm": key}) for n in range(100)]
    answers = await asyncio.gather(*(wire.create(body, key=key) for body in bodies))
    assert Counter(answer.status_code for answer in answers) == {202: 1, 409: 99}
    listed = (await wire.ask("GET", "/jobs", params={"limit": "100"})).json()["data"]
    assert [job["metadata"].get("storm") for job in listed].count(key) == 1


@pytest.mark.requirement("ID-4")
async def test_the_key_of_a_deleted_job_is_gone_and_makes_no_new_one(wire: Wire, key: str) -> None:
    job = (await wire.create(scripted("hello"), key=key)).json()["id"]
    await wire.ask("DELETE", f"/jobs/{job}")
    problem = assert_problem(await wire.create(scripted("hello"), key=key), 410, "gone")
    assert "new Idempotency-Key" in problem["detail"]
    assert_problem(await wire.ask("GET", f"/jobs/{job}"), 410, "gone")


@pytest.mark.requirement("ID-5")
@pytest.mark.parametrize("more", ["!", "~", "x" * 215, '"quoted;=,"'])
async def test_a_key_is_any_visible_ascii(wire: Wire, key: str, more: str) -> None:
    key += more
    body = scripted("hello")
    assert (await wire.create(body, key=key)).status_code == 202
    assert (await wire.create(body, key=key)).status_code == 200


@pytest.mark.requirement("ID-6")
@pytest.mark.requirement("CR-3")
@pytest.mark.parametrize(
    "same",
    [
        {"on_interrupt": "restart", "priority": 5, "metadata": {}, "params": {"text": "hello"}},
        {"system": None, "max_tokens": None, "temperature": None, "ttl_s": None, "messages": None},
        {"prompt": None, "messages": [{"role": "user", "content": "hi"}]},
    ],
    ids=["defaults", "nulls", "a prompt as a message"],
)
async def test_the_same_question_written_in_another_way_is_the_same_body(wire: Wire, key: str, same: Json) -> None:
    first = await wire.create(scripted("hello"), key=key)
    again = await wire.create({**scripted("hello"), **same}, key=key)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])


@pytest.mark.requirement("ID-7")
@pytest.mark.parametrize(
    "bodies",
    [
        ({"model": "m", "prompt": "p"}, {"prompt": "p", "model": "m"}),
        ({"params": {"seed": 1, "tokens": 2}}, {"params": {"tokens": 2, "seed": 1}}),
        ({"metadata": {"a": "1", "b": "2"}}, {"metadata": {"b": "2", "a": "1"}}),
    ],
    ids=["fields", "params", "metadata"],
)
async def test_the_order_of_members_means_nothing(wire: Wire, key: str, bodies: tuple[Json, Json]) -> None:
    least = {"provider": "scripted", "model": "demo", "prompt": "hi"}
    first, again = [
        await wire.create({**body, **{k: v for k, v in least.items() if k not in body}}, key=key) for body in bodies
    ]
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
