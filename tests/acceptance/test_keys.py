"""`tailrace keys`, as an operator uses it beside a running service: no restart, and refusals say how to mend it."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.cluster import GUARD_S, until
from tests.support.up import run_tailrace, running_up
from tests.support.wire import PACED, Wire, scripted

JOB = {"provider": "scripted", "model": "demo", "prompt": "go", "params": {"tokens": 3}}


@dataclass(frozen=True)
class Service:
    """Where a running one is, and its data."""

    url: str
    data_dir: Path


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that begins without keys, on this machine alone."""
    folder = tmp_path_factory.mktemp("keys")
    with running_up("--data-dir", str(folder)) as up:
        yield Service(up.url, folder)


def _keys(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_tailrace("keys", *arguments)


def _made(up: Service, *arguments: str) -> dict[str, Any]:
    done = _keys("create", *arguments, "--json", "--data-dir", str(up.data_dir))
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def _status(up: Service, key: str | None, method: str = "GET", path: str = "/jobs", body: Any = None) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx2.request(method, up.url + path, headers=headers, json=body, timeout=GUARD_S).status_code


def _closed_to_all_but(up: Service, *keys: str) -> None:
    until(lambda: [_status(up, key) for key in (None, *keys)] == [401] + [200] * len(keys))


def test_keys_open_and_close_a_running_service(up: Service) -> None:
    assert _status(up, None) == 200
    old, new = _made(up, "acme", "--label", "backend"), _made(up, "acme")
    until(lambda: _status(up, None) == 401)
    assert [_status(up, key["key"]) for key in (old, new)] == [200, 200]
    job = httpx2.post(f"{up.url}/jobs", headers={"Authorization": f"Bearer {old['key']}"}, json=JOB).json()
    assert _status(up, new["key"], path=f"/jobs/{job['id']}") == 200, "keys of one tenant see the same jobs"

    assert _keys("revoke", old["key"], "--data-dir", str(up.data_dir)).returncode == 0
    until(lambda: _status(up, old["key"]) == 401)
    assert _status(up, job["read_token"], path=f"/jobs/{job['id']}") == 401, "its tokens end with it"
    assert _status(up, new["key"]) == 200
    assert _keys("revoke", new["id"], "--data-dir", str(up.data_dir)).returncode == 0
    until(lambda: _status(up, new["key"]) == 401)
    assert _status(up, None) == 401, "revoking the last key opens nothing"


def test_a_key_does_what_it_was_made_for_until_its_end(up: Service) -> None:
    reader = _made(up, "acme", "--rights", "read")["key"]
    until(lambda: _status(up, reader) == 200)
    assert _status(up, reader, "POST", "/jobs", JOB) == 403
    assert _status(up, reader, path="/metrics") == 403
    short = _made(up, "acme", "--expires", "6s")["key"]
    until(lambda: _status(up, short) == 200)
    job = httpx2.post(f"{up.url}/jobs", headers={"Authorization": f"Bearer {short}"}, json=JOB).json()
    until(lambda: _status(up, short) == 401)
    assert _status(up, job["read_token"], path=f"/jobs/{job['id']}") == 401, "its tokens end with it"


@pytest.mark.requirement("TK-6")
async def test_streams_end_with_the_key_that_opened_them_and_with_the_one_that_signed_their_token(up: Service) -> None:
    for name in ("revoked", "dropped"):
        key, other = _made(up, "acme"), _made(up, "acme")
        _closed_to_all_but(up, key["key"], other["key"])
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(Wire(up.url, one["key"])) for one in (key, other)]
            job = (await wires[0].create(scripted(params=PACED))).json()
            by_token = await stack.enter_async_context(Wire(up.url, job["read_token"]))
            ending = [by_token] if name == "dropped" else [wires[0], by_token]
            staying = [wires[0], wires[1]] if name == "dropped" else [wires[1]]
            tails = [await stack.enter_async_context(wire.tail(job["id"])) for wire in ending]
            chat = await stack.enter_async_context(by_token.tail(job["id"], dialect="chat"))
            stayed = [await stack.enter_async_context(wire.tail(job["id"])) for wire in staying]
            for tail in (*tails, chat, *stayed):
                await tail.until(lambda seen: bool(seen.frames))
            command = ("revoke", key["id"]) if name == "revoked" else ("rotate", "--drop-old")
            assert _keys(*command, "--data-dir", str(up.data_dir)).returncode == 0
            for tail in tails:
                assert (await tail.end()).names[-1] == "token_expired", name
            with pytest.raises(Exception, match=r"closed|disconnect|incomplete|peer"):
                await chat.end()
            await wires[1].cancel(job["id"])
            assert [(await tail.end()).names[-1] for tail in stayed] == ["cancelled"] * len(stayed), name


@pytest.mark.requirement("TK-6")
async def test_a_stream_ends_when_its_key_does(up: Service) -> None:
    other = _made(up, "acme")["key"]
    _closed_to_all_but(up, other)
    async with Wire(up.url, other) as owner:
        job = (await owner.create(scripted(params=PACED))).json()["id"]
        short = _made(up, "acme", "--expires", "8s")["key"]
        async with Wire(up.url, short) as wire:
            minted = (await wire.ask("POST", f"/jobs/{job}/tokens", {})).json()
            async with wire.tail(job) as by_key, Wire(up.url, minted["token"]) as page, page.tail(job) as by_token:
                assert [(await tail.end()).names[-1] for tail in (by_key, by_token)] == ["token_expired"] * 2
        await owner.cancel(job)


def test_the_list_shows_whose_and_for_what_and_no_key(up: Service) -> None:
    made = _made(up, "umbra", "--rights", "submit,read", "--expires", "90d", "--label", "back\x1b[2Jend")
    shown = _keys("list", "--data-dir", str(up.data_dir))
    assert shown.returncode == 0
    (row,) = [line for line in shown.stdout.splitlines() if made["id"] in line]
    assert "umbra" in row
    assert "read,submit" in row or "submit,read" in row
    assert "live" in row
    assert "\x1b" not in row, "a label writes nothing to a terminal but itself"
    secret = made["key"].removeprefix(f"tr_{made['id']}_")
    assert secret not in shown.stdout
    (fact,) = json.loads(_keys("list", "umbra", "--json", "--data-dir", str(up.data_dir)).stdout)
    assert (fact["tenant"], fact["state"], fact["last_used"]) == ("umbra", "live", None)
    assert secret not in json.dumps(fact)
    assert not any(secret.encode() in path.read_bytes() for path in up.data_dir.rglob("*") if path.is_file())


def test_a_rotation_leaves_the_tokens_that_are_out_as_they_are(up: Service) -> None:
    key = _made(up, "acme")["key"]
    until(lambda: _status(up, key) == 200)
    headers = {"Authorization": f"Bearer {key}"}

    def minted() -> str:
        return str(httpx2.post(f"{up.url}/jobs", headers=headers, json=JOB).json()["read_token"])

    before = httpx2.post(f"{up.url}/jobs", headers=headers, json=JOB).json()
    assert _keys("rotate", "--data-dir", str(up.data_dir)).returncode == 0
    head = before["read_token"].partition(".")[0]
    until(lambda: minted().partition(".")[0] != head)
    assert _status(up, before["read_token"], path=f"/jobs/{before['id']}") == 200

    assert _keys("rotate", "--drop-old", "--data-dir", str(up.data_dir)).returncode == 0
    until(lambda: _status(up, before["read_token"], path=f"/jobs/{before['id']}") == 401)
    fresh = httpx2.post(f"{up.url}/jobs", headers=headers, json=JOB).json()
    assert _status(up, fresh["read_token"], path=f"/jobs/{fresh['id']}") == 200


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        (["create", "a b"], 2, "letters, digits"),
        (["create", "acme", "--rights", "write"], 2, "submit, read, cancel, admin"),
        (["create", "acme", "--expires", "soon"], 2, "90d"),
        (["revoke", "nothing"], 4, "keys list"),
    ],
)
def test_what_cannot_be_done_says_what_to_do(up: Service, command: list[str], status: int, says: str) -> None:
    done = _keys(*command, "--data-dir", str(up.data_dir))
    assert done.returncode == status
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["create", "list", "revoke", "rotate"])
def test_every_command_has_help(command: str) -> None:
    done = _keys(command, "--help")
    assert done.returncode == 0
    assert "--redis-url" in done.stdout
