"""deploy/docker-compose.users.yml: the store's own users, made of files of passwords by the command that it has."""

import subprocess
from pathlib import Path

import redis

from cli.valkey import embedded_valkey
from tests.support.cluster import until
from tests.support.compose import ROOT, document, services
from tests.support.gateway import ENV
from tests.support.stores import PASSWORD, users

FILE = ROOT / "deploy" / "docker-compose.users.yml"


def test_the_store_differs_from_the_usual_one_in_its_users_alone(tmp_path: Path) -> None:
    env = {**ENV, "TAILRACE_SECRETS_DIR": str(tmp_path)}
    usual, ours = services(env)["valkey"].command, services(env, FILE)["valkey"].command
    assert ours[4:6] == ["--aclfile", "/tmp/users.acl"]
    assert ours[6:] == usual[3:]
    assert usual[1] == "--requirepass"


def test_nodes_and_workers_come_in_as_themselves_and_find_their_password_in_a_file(tmp_path: Path) -> None:
    found = services({**ENV, "TAILRACE_SECRETS_DIR": "/secrets"}, FILE)
    for name in ("api", "worker"):
        environment = found[name].environment
        assert environment["TAILRACE_REDIS_URL"] == f"redis://{name}@valkey:6379/0"
        file = environment["TAILRACE_REDIS_PASSWORD_FILE"]
        assert f"/secrets/{name}_password:{file}:ro" in found[name].spec["volumes"]
    assert set(document(FILE)["services"]) == {"valkey", "api", "worker"}


def test_its_command_starts_a_server_with_these_users(tmp_path: Path) -> None:
    users(tmp_path / "secrets")
    found = services({**ENV, "TAILRACE_SECRETS_DIR": str(tmp_path / "secrets")}, FILE)["valkey"]
    place = {
        "/etc/tailrace": str(ROOT / "deploy"),
        "/run/tailrace": str(tmp_path / "secrets"),
        "/tmp/users.acl": str(tmp_path / "users.acl"),
        "exec valkey-server": f"exec {embedded_valkey(tmp_path / 'data').argv[0]}",
    }
    words = []
    for word in found.command:
        for there, here in place.items():
            word = word.replace(there, here)
        words.append(word)
    socket = tmp_path / "valkey.sock"
    words += ["--dir", str(tmp_path / "data"), "--port", "0", "--unixsocket", str(socket)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as server:
        try:
            health = redis.Redis(unix_socket_path=str(socket), username="health", password="any")

            def lives() -> bool:
                try:
                    return bool(health.ping())
                except redis.exceptions.ConnectionError:
                    return False

            until(lives)
            node = redis.Redis(unix_socket_path=str(socket), username="api", password=PASSWORD)
            assert node.zcard("tailrace:open") == 0
            node.close()
            health.close()
        finally:
            server.terminate()
