"""deploy/docker-compose.users.yml: the store's own users, made of files of passwords by the command that it has."""

import shlex
import subprocess
from pathlib import Path

import redis

from cli.valkey import embedded_valkey
from tests.support.cluster import until
from tests.support.compose import ROOT, document, services
from tests.support.gateway import ENV
from tests.support.stores import PASSWORD, ValkeyProcess, users
from tests.support.up import run_tailrace

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


def _documented(*signs: str) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """What docs/deploy.md has an operator type: the container's variables, its mounts by target, and its command."""
    text = (ROOT / "docs" / "deploy.md").read_text().replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if " run --rm " in line and all(sign in line for sign in signs)]
    words = shlex.split(line, comments=True)
    words = words[words.index("--rm") + 1 :]
    variables: dict[str, str] = {}
    mounts: dict[str, str] = {}
    while words[0] in ("-e", "-v"):
        option, value, words = words[0], words[1], words[2:]
        if option == "-e":
            name, _, rest = value.partition("=")
            variables[name] = rest
        else:
            source, target, mode = value.split(":")
            assert mode == "ro"
            mounts[target] = source
    assert words[:2] == ["api", "tailrace"]
    return variables, mounts, words[2:]


def test_the_guides_command_makes_a_key_as_the_user_that_may_and_a_nodes_own_user_may_not(tmp_path: Path) -> None:
    variables, mounts, command = _documented("docker-compose.users.yml")
    store = ValkeyProcess(tmp_path, with_users=True)
    node = services({**ENV, "TAILRACE_SECRETS_DIR": str(tmp_path / "passwords")}, FILE)["api"]
    place = {
        target: source.replace("$TAILRACE_SECRETS_DIR", str(tmp_path / "passwords"))
        for target, source in mounts.items()
    }
    place |= {target: source for source, target, _ in (mount.split(":") for mount in node.spec["volumes"])}

    def inside(environment: dict[str, str]) -> dict[str, str]:
        """The container's variables, as they are where its mounts and its store are here."""
        user = environment["TAILRACE_REDIS_URL"].removeprefix("redis://").removesuffix("@valkey:6379/0")
        url = store.url.replace("unix://", f"unix://{user}@")
        file = place[environment["TAILRACE_REDIS_PASSWORD_FILE"]]
        return {**environment, "TAILRACE_REDIS_URL": url, "TAILRACE_REDIS_PASSWORD_FILE": file}

    store.start()
    try:
        as_operator = inside({**node.environment, **variables})
        made = run_tailrace(*command, env=as_operator)
        assert made.returncode == 0, made.stderr
        key = made.stdout.strip()
        for other in (("list",), ("revoke", key), ("rotate",), ("rotate", "--drop-old")):
            assert run_tailrace("keys", *other, env=as_operator).returncode == 0, other
        assert store.refusals() == []

        refused = run_tailrace(*command, env=inside(node.environment))
        assert refused.returncode == 3
        assert "permission" in refused.stderr.lower()
    finally:
        store.stop()


def test_without_users_the_guides_command_finds_the_store_in_the_nodes_own_environment() -> None:
    variables, mounts, command = _documented("docker compose run")
    assert (variables, mounts) == ({}, {})
    assert command[:3] == ["keys", "create", "acme"]
    node = services(ENV)["api"]
    assert node.environment["TAILRACE_REDIS_URL"] == f"redis://:{ENV['TAILRACE_VALKEY_PASSWORD']}@valkey:6379/0"
    assert "entrypoint" not in node.spec
    assert "store" in node.spec["networks"]
