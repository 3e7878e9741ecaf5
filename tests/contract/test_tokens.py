"""Capability tokens: what a browser may do with one, and for how long."""

from datetime import datetime
from email.utils import parsedate_to_datetime

import pytest

from tests.contract.conftest import Strict
from tests.support.wire import SLOW, Json, Wire, assert_problem, scripted


async def _minted(strict: Strict, job: str, **asked: object) -> Json:
    answer = await strict.acme.ask("POST", f"/jobs/{job}/tokens", asked)
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    body: Json = answer.json()
    return body


@pytest.mark.requirement("TK-1")
async def test_the_answer_to_a_post_holds_a_token_that_reads_the_job_and_nothing_else(strict: Strict) -> None:
    made = (await strict.acme.create(scripted("hello"))).json()
    other = await strict.acme.submit("other")
    token, job = made["read_token"], made["id"]
    async with Wire(strict.acme.url, token) as wire:
        assert (await wire.ended(job))["text"] == "hello"
        assert_problem(await wire.ask("POST", f"/jobs/{job}/cancel"), 403, "forbidden")
        assert_problem(await wire.ask("DELETE", f"/jobs/{job}"), 403, "forbidden")
        assert_problem(await wire.ask("GET", f"/jobs/{other}"), 404, "not_found")
        assert_problem(await wire.ask("GET", "/jobs"), 403, "forbidden")
        assert_problem(await wire.create(scripted("more")), 403, "forbidden")
        assert_problem(await wire.ask("POST", f"/jobs/{job}/tokens", {}), 403, "forbidden")


@pytest.mark.requirement("TK-2")
async def test_a_token_is_taken_from_the_query_and_a_key_is_not(strict: Strict) -> None:
    made = (await strict.acme.create(scripted("hello"))).json()
    job, token = made["id"], made["read_token"]
    await strict.acme.ended(job)
    assert (await strict.nobody.events(job, token=token)).names[-1] == "done"
    assert (await strict.nobody.ask("GET", f"/jobs/{job}", params={"token": token})).status_code == 200
    refused = await strict.nobody.ask("GET", f"/jobs/{job}", params={"token": "key-of-acme"})
    assert_problem(refused, 401, "unauthorized")


@pytest.mark.requirement("TK-3")
async def test_a_cookie_counts_for_its_job_alone_and_not_for_what_another_site_sends(strict: Strict) -> None:
    job = await strict.acme.submit(params=SLOW)
    asked = {"rights": ["read", "cancel"], "cookie": True}
    answer = await strict.acme.ask("POST", f"/jobs/{job}/tokens", asked)
    cookie = answer.headers["set-cookie"]
    assert f"Path=/jobs/{job};" in cookie
    assert "HttpOnly" in cookie
    ends = parsedate_to_datetime(cookie.partition("expires=")[2].partition(";")[0])
    assert ends == datetime.fromisoformat(answer.json()["expires_at"])
    # This node has other origins named, whose pages could not send it otherwise.
    assert "SameSite=none; Secure" in cookie
    sent = {"Cookie": cookie.partition(";")[0]}
    show, cancel = ("GET", f"/jobs/{job}"), ("POST", f"/jobs/{job}/cancel")
    for others in ("https://evil.example", "null", "http://[", f"{strict.acme.url}.evil.example"):
        for method, path in (show, cancel):
            refused = await strict.nobody.ask(method, path, headers={**sent, "Origin": others})
            assert_problem(refused, 403, "forbidden")
    refused = await strict.nobody.ask(*show, headers={**sent, "Sec-Fetch-Site": "cross-site"})
    assert_problem(refused, 403, "forbidden")
    assert_problem(await strict.nobody.ask(*cancel, headers=sent), 403, "forbidden")
    for ours in ({}, {"Origin": strict.acme.url}, {"Origin": "https://app.example"}):
        assert (await strict.nobody.ask(*show, headers={**sent, **ours})).status_code == 200
    ours = {"Origin": strict.acme.url}
    assert (await strict.nobody.ask(*cancel, headers={**sent, **ours})).status_code == 200


@pytest.mark.requirement("TK-4")
async def test_a_token_that_ends_ends_the_stream_and_the_next_one_goes_on_from_its_cursor(strict: Strict) -> None:
    params = {"tokens": 80, "tokens_per_s": 20, "seed": 3}
    job = await strict.acme.submit(params=params)
    short = await _minted(strict, job, ttl_s=2)
    async with Wire(strict.acme.url, short["token"]) as wire:
        streamed = await wire.events(job)
        assert streamed.names[-1] == "token_expired"
        assert streamed.last.id is None
        assert streamed.one("token_expired")["code"] == "token_expired"
        assert_problem(await wire.ask("GET", f"/jobs/{job}"), 401, "token_expired")
    cursor = next(name for name in reversed(streamed.ids) if name is not None)
    longer = await _minted(strict, job)
    async with Wire(strict.acme.url, longer["token"]) as wire:
        rest = await wire.events(job, cursor)
    whole = await strict.acme.log(job)
    seen = [frame for frame in (*streamed.frames, *rest.frames) if frame.event == "token"]
    assert "".join(frame.body["text"] for frame in seen) == "".join(body["text"] for body in whole.all("token"))


@pytest.mark.requirement("TK-4")
async def test_a_dialect_that_cannot_say_so_sees_a_broken_connection(strict: Strict) -> None:
    job = await strict.acme.submit(params=SLOW)
    short = await _minted(strict, job, ttl_s=2)
    async with Wire(strict.acme.url, short["token"]) as wire, wire.tail(job, dialect="chat") as tail:
        with pytest.raises(Exception, match=r"closed|disconnect|incomplete|peer"):
            await tail.end()
    await strict.acme.cancel(job)


@pytest.mark.requirement("TK-5")
@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"rights": []}, "rights"),
        ({"rights": ["submit"]}, "rights.0"),
        ({"rights": ["read", "admin"]}, "rights.1"),
        ({"ttl_s": 0}, "ttl_s"),
        ({"job": "x"}, "job"),
    ],
)
async def test_a_token_for_what_cannot_be_given_is_refused_by_name(strict: Strict, asked: Json, field: str) -> None:
    job = await strict.acme.submit("hello")
    assert_problem(await strict.acme.ask("POST", f"/jobs/{job}/tokens", asked), 400, "invalid_request", field)


@pytest.mark.requirement("TK-1")
@pytest.mark.parametrize("asked", [{"rights": ["submit"]}, {"job": "x"}, []])
async def test_a_token_that_asks_for_another_is_forbidden_whatever_its_body_is(strict: Strict, asked: object) -> None:
    made = (await strict.acme.create(scripted("hello"))).json()
    async with Wire(strict.acme.url, made["read_token"]) as wire:
        for job in (made["id"], "0" * 26):
            assert_problem(await wire.ask("POST", f"/jobs/{job}/tokens", asked), 403, "forbidden")


@pytest.mark.requirement("TK-5")
async def test_without_a_body_a_token_reads_and_does_nothing_else(strict: Strict) -> None:
    job = await strict.acme.submit("hello")
    answer = await strict.acme.ask("POST", f"/jobs/{job}/tokens")
    assert answer.status_code == 201
    assert answer.json()["rights"] == ["read"]
