"""`tailrace up`, `tailrace demo` and access, as a user meets them."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tailrace_client import NotFoundError, UnauthorizedError

from tests.acceptance.conftest import ClusterFactory, quick
from tests.support.cluster import GUARD_S, clean_environment, until
from tests.support.up import running_up
from tests.support.watch import assert_whole, finish, read_tokens, said

PARAMS: dict[str, Any] = {"tokens": 100, "tokens_per_s": 40, "seed": 5}
JOB: Any = {"provider": "scripted", "model": "demo", "prompt": "go", "params": PARAMS}


async def test_a_restart_of_everything_keeps_finished_and_running_jobs(tmp_path: Path) -> None:
    with running_up("--data-dir", str(tmp_path)) as up:
        async with quick(up.url) as tailrace:
            done = tailrace.stream(provider="scripted", model="demo", prompt="go", params={"tokens": 5})
            await finish(done)
            running = tailrace.stream(**JOB)
            await read_tokens(running, 10)
            cursor = running.cursor
            await running.aclose()
        assert up.stop() == 0

    with running_up("--data-dir", str(tmp_path)) as up:
        async with quick(up.url) as tailrace:
            assert (await tailrace.job(str(done.job_id))).text == done.transcript.text
            stream = tailrace.events(str(running.job_id), after=cursor, transcript=running.transcript)
            terminal = await finish(stream)

            assert terminal.type == "done"
            await assert_whole(tailrace, stream, said(PARAMS, terminal.data["attempt"]))


async def test_a_reader_survives_the_kill_of_one_of_two_nodes_behind_one_address(tmp_path: Path) -> None:
    with running_up("--data-dir", str(tmp_path), "--api", "2", "--workers", "2") as up:
        async with quick(up.url) as tailrace, tailrace.stream(**JOB) as stream:
            for pid in up.children("cli.main api"):
                await read_tokens(stream, 15)
                os.kill(pid, signal.SIGKILL)
            await finish(stream)

            assert stream.counters.resumes >= 1
            await assert_whole(tailrace, stream, said(PARAMS, 1))
        up.wait_for(r"api-\d \(pid \d+\) was killed by SIGKILL; starting it again")
        up.wait_for(r"api-\d is back")


def test_ctrl_c_stops_every_process_and_leaves_no_socket_behind(tmp_path: Path) -> None:
    with running_up("--data-dir", str(tmp_path), "--workers", "2") as up:
        url = up.url
        children = up.children()
        assert len(children) == 4

        assert up.stop(signal.SIGINT) == 0

        assert not any(Path(f"/proc/{pid}").exists() for pid in children)
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(url)


def test_a_supervisor_that_is_killed_takes_its_children_with_it(tmp_path: Path) -> None:
    with running_up("--data-dir", str(tmp_path)) as up:
        assert up.url
        children = up.children()
        up.process.kill()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


def test_the_embedded_store_is_private_and_keeps_an_append_only_file(tmp_path: Path) -> None:
    with running_up("--data-dir", str(tmp_path)) as up:
        assert up.url
        assert (tmp_path / "valkey.sock").stat().st_mode & 0o077 == 0
        assert any((tmp_path / "appendonlydir").iterdir())
        (store,) = up.children("valkey-server")
        assert _tcp_ports_of(store) == []


def _tcp_ports_of(pid: int) -> list[str]:
    """The TCP addresses that a process listens on, as the kernel writes them."""
    sockets = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]


def test_a_second_up_on_the_same_data_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with running_up("--data-dir", str(tmp_path)) as up:
        assert up.url
        with running_up("--data-dir", str(tmp_path)) as second:
            assert second.process.wait(GUARD_S) == 1
            second.wait_for("choose another --data-dir")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["api", "--host", "0.0.0.0", "--port", "0"], "Without API keys a node listens on loopback only"),
        (["up", "--host", "0.0.0.0", "--port", "0"], "Without API keys a node listens on loopback only"),
        (["api", "--log-level", "loud"], "TAILRACE_LOG_LEVEL"),
    ],
)
def test_a_command_that_may_not_start_says_how_to_mend_it(command: list[str], says: str) -> None:
    ended = _tailrace(*command)

    assert ended.returncode in (1, 2)
    assert says in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = str(sock.getsockname()[1])
        ended = _tailrace("up", "--port", port, "--data-dir", str(tmp_path))

    assert ended.returncode == 1
    assert f"127.0.0.1:{port}" in ended.stderr


async def test_a_tenant_finds_its_own_jobs_and_no_other(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(env={"TAILRACE_API_KEYS": "acme:key-a,umbrella:key-b"})
    async with quick(cluster.url, "key-a") as acme, quick(cluster.url, "key-b") as umbrella, quick(cluster.url) as no:
        job = await acme.submit(provider="scripted", model="demo", prompt="secret")

        assert [found.id for found in (await acme.jobs()).data] == [job.id]
        assert (await umbrella.jobs()).data == []
        for call in (umbrella.job, umbrella.cancel, umbrella.delete):
            with pytest.raises(NotFoundError):
                await call(job.id)
        with pytest.raises(NotFoundError):
            await finish(umbrella.events(job.id))
        with pytest.raises(UnauthorizedError):
            await no.job(job.id)


def test_the_demo_keeps_every_promise_and_ends_with_status_zero() -> None:
    ended = _tailrace("demo")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    for seen in ("✂", "✗ kill -9", "attempt 2: worker_lost", "cancelled", "events lost", "events doubled"):
        assert seen in ended.stdout


def _tailrace(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-m", "cli.main", *command],
        env={**clean_environment(), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
