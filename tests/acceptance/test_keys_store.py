"""The store that `tailrace keys` works in: that of this folder or the one that is named, and no other."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.support.certificates import Authority
from tests.support.cluster import GUARD_S, Process, clean_environment
from tests.support.stores import PASSWORD, ValkeyProcess, running_valkey
from tests.support.tls_front import tls_front
from tests.support.up import run_tailrace, running_up


def _made(cwd: Path, tenant: str = "acme") -> str:
    done = run_tailrace("keys", "create", tenant, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _tenants(cwd: Path) -> list[str]:
    listed = run_tailrace("keys", "list", "--json", cwd=cwd)
    assert listed.returncode == 0, listed.stderr
    return [row["tenant"] for row in json.loads(listed.stdout)]


def _status(url: str, key: str = "") -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx2.get(f"{url}/jobs", headers=headers, timeout=GUARD_S).status_code


def test_a_key_that_is_made_beside_up_opens_it_and_no_store_has_to_be_named(tmp_path: Path) -> None:
    with running_up(cwd=tmp_path) as up:
        assert _status(up.url) == 200
        assert _status(up.url, _made(tmp_path)) == 200
        assert _tenants(tmp_path) == ["acme"]


def test_what_a_node_beyond_loopback_asks_for_can_be_done_before_it_starts(tmp_path: Path) -> None:
    with running_up("--host", "0.0.0.0", cwd=tmp_path) as refused:
        assert refused.process.wait(GUARD_S) == 1
        refused.wait_for("tailrace keys create TENANT")
    key = _made(tmp_path)
    with running_up("--host", "0.0.0.0", cwd=tmp_path) as up:
        assert [_status(up.url), _status(up.url, key)] == [401, 200]
    assert _tenants(tmp_path) == ["acme"]
    assert not (tmp_path / ".tailrace" / "valkey.sock").exists(), "it runs for the command's own moment"


def test_the_helps_example_of_a_node_beyond_loopback_starts_one(tmp_path: Path) -> None:
    lines = [line.split() for line in run_tailrace("api", "--help").stdout.splitlines()]
    *_, making, starting = [line for line in lines if line[:1] == ["tailrace"]]
    assert starting[1:4] == ["api", "--host", "0.0.0.0"]
    with running_valkey(tmp_path) as store:
        words = [[word if "://" not in word else store.url for word in line[1:]] for line in (making, starting)]
        assert run_tailrace(*words[0]).returncode == 0
        node = Process("api", [*words[1], "--port", "0"], clean_environment(), tmp_path / "api.log")
        try:
            node.start()
        finally:
            node.stop()


def test_keys_made_at_the_same_moment_in_a_store_that_is_down_are_all_there(tmp_path: Path) -> None:
    with running_up(cwd=tmp_path) as up:
        assert up.url
    tenants = ["a", "b", "c", "d"]
    with ThreadPoolExecutor() as at_once:
        list(at_once.map(lambda tenant: _made(tmp_path, tenant), tenants))
    assert sorted(_tenants(tmp_path)) == tenants


@pytest.mark.parametrize("command", [("create", "acme"), ("list",), ("revoke", "x"), ("rotate",)])
def test_where_no_store_is_none_is_made_or_guessed_and_the_refusal_says_what_to_name(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    done = run_tailrace("keys", *command, cwd=tmp_path)
    assert done.returncode == 2
    for way in ("`tailrace up`", "--data-dir", "--redis-url", "TAILRACE_REDIS_URL"):
        assert way in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_store_is_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "missing", tmp_path / "empty"):
        done = run_tailrace("keys", "list", "--data-dir", str(folder))
        assert done.returncode == 2
        assert str(folder) in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.parametrize("url", ["foo", "http://h", "redis://:s3cret@h:no", "redis://h?password=s3cret"])
def test_a_url_that_is_none_is_bad_usage_and_not_quoted(url: str) -> None:
    done = run_tailrace("keys", "list", "--redis-url", url)
    assert done.returncode == 2
    assert "--redis-url" in done.stderr
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.stderr


def test_two_stores_are_one_too_many(tmp_path: Path) -> None:
    done = run_tailrace("keys", "list", "--redis-url", "redis://h", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert "take one away" in done.stderr


def test_a_store_that_is_away_is_named_with_what_a_person_can_do() -> None:
    done = run_tailrace("keys", "list", "--redis-url", "redis://:s3cret@127.0.0.1:1/0")
    assert done.returncode == 3
    assert "redis://127.0.0.1:1/0" in done.stderr
    assert "Check that it runs" in done.stderr
    for foreign in ("Retry-After", "Traceback", "s3cret"):
        assert foreign not in done.stderr


async def test_a_store_behind_tls_is_opened_with_the_files_of_the_settings(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "password").write_text(PASSWORD)
    valkey = ValkeyProcess(tmp_path / "valkey", with_users=True)
    valkey.start()
    try:
        async with tls_front(Path(valkey.url.removeprefix("unix://")), *authority.sign("store", "localhost")) as port:
            command = ("keys", "create", "acme", "--redis-url", f"rediss://keys@localhost:{port}/0")
            files = {
                "TAILRACE_REDIS_CA_FILE": str(authority.file),
                "TAILRACE_REDIS_PASSWORD_FILE": str(tmp_path / "password"),
            }
            done = await asyncio.to_thread(run_tailrace, *command, env=files)
            assert done.returncode == 0, done.stderr
            for lacking, why in (
                ("TAILRACE_REDIS_CA_FILE", "CERTIFICATE_VERIFY_FAILED"),
                ("TAILRACE_REDIS_PASSWORD_FILE", "invalid username-password pair"),
            ):
                env = {name: value for name, value in files.items() if name != lacking}
                done = await asyncio.to_thread(run_tailrace, *command, env=env)
                assert done.returncode == 3
                assert why in done.stderr
                assert len(done.stderr.splitlines()) == 1
        with valkey.client() as client:
            assert client.hlen("tailrace:keys") == 1
        assert valkey.refusals() == ["keys: AUTH (auth, toplevel)"]
    finally:
        valkey.stop()
