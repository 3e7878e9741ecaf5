"""docker-compose.yml keeps the rules that compose, an operator and the processes that it starts rely on."""

import re
import subprocess
from datetime import timedelta
from typing import Any

import pytest
from typer.main import get_command

from cli.main import app
from cli.valkey import embedded_valkey
from shared.settings import Settings
from tests.support.compose import COMPOSE_FILE, ROOT, TLS_FILE, RequiredError, Service, document, services, variables
from tests.support.gateway import ENV

# What the compose specification knows and this file may use; no `version`, which it has dropped.
TOP_LEVEL = {"name", "services", "networks", "volumes"}
OF_A_SERVICE = {
    *("build", "command", "depends_on", "environment", "healthcheck", "image", "init", "logging", "networks", "ports"),
    *("cap_drop", "read_only", "security_opt", "user", "restart", "stop_grace_period", "sysctls", "tmpfs", "ulimits"),
    "volumes",
}
OF_A_HEALTHCHECK = {"test", "interval", "timeout", "retries", "start_period"}
STANDS_IN_THE_WAY_OF_SCALE = {"container_name", "ports", "network_mode", "hostname", "mac_address", "volumes"}
PROVIDERS_VARIABLES = {
    *("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"),
    *("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
}
EXIT_S = 7.0
"""What a process may need to end after its drain, as `tailrace up` reckons."""

ALL = services({**ENV, **dict.fromkeys(PROVIDERS_VARIABLES, "x")})
OURS = [service for service in ALL.values() if "build" in service.spec]
each_service = pytest.mark.parametrize("service", ALL.values(), ids=list(ALL))


def seconds(duration: str) -> float:
    parts = re.fullmatch(r"(?:(?P<minutes>\d+)m)?(?:(?P<seconds>\d+)s)?", duration)
    assert parts, duration
    return timedelta(**{unit: int(count) for unit, count in parts.groupdict(default="0").items()}).total_seconds()


@pytest.mark.parametrize("path", [COMPOSE_FILE, TLS_FILE], ids=lambda path: path.name)
def test_only_keys_of_the_specification_are_used(path: Any) -> None:
    file = document(path)
    assert {key for key in file if not key.startswith("x-")} <= TOP_LEVEL
    for service in file["services"].values():
        assert set(service) <= OF_A_SERVICE
        assert set(service.get("healthcheck", {})) <= OF_A_HEALTHCHECK


def test_the_services_are_the_whole_of_tailrace() -> None:
    assert set(ALL) == {"valkey", "api", "worker", "nginx"}
    assert [service.name for service in OURS] == ["api", "worker"]


@each_service
def test_images_are_pinned_or_built_here(service: Service) -> None:
    if service in OURS:
        build = service.spec["build"]
        assert (ROOT / build["context"] / build["dockerfile"]).is_file()
    else:
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+-alpine", service.spec["image"])


@pytest.mark.parametrize("service", OURS, ids=lambda service: service.name)
def test_our_commands_are_commands_and_options_of_the_console_script(service: Service) -> None:
    program, name, *options = service.command
    assert program == "tailrace"
    known: Any = get_command(app)
    known.commands[name].make_context(name, options)  # raises UsageError for what it does not know


@each_service
def test_environments_hold_settings_that_exist_and_variables_of_providers(service: Service) -> None:
    known = {f"TAILRACE_{name.upper()}" for name in Settings.model_fields} | PROVIDERS_VARIABLES | {"REDISCLI_AUTH"}
    assert set(service.environment) <= known


def test_secrets_go_to_those_alone_who_need_them() -> None:
    holders = {
        name: {service.name for service in ALL.values() if name in service.environment}
        for name in (*PROVIDERS_VARIABLES, "TAILRACE_API_KEYS", "TAILRACE_REDIS_URL")
    }
    assert holders == {
        **{name: {"worker"} for name in PROVIDERS_VARIABLES},
        "TAILRACE_API_KEYS": {"api"},
        "TAILRACE_REDIS_URL": {"api", "worker"},
    }


def test_what_has_no_sane_default_is_demanded_and_all_else_has_one() -> None:
    required = {name for path in (COMPOSE_FILE, TLS_FILE) for name, rules in variables(path).items() if ":?" in rules}
    assert required == set(ENV)
    assert not [name for path in (COMPOSE_FILE, TLS_FILE) for name, rules in variables(path).items() if "" in rules]
    for name in required:
        with pytest.raises(RequiredError, match=name):
            services({**ENV, name: ""}, TLS_FILE)


def test_an_optional_variable_that_is_not_set_stays_absent() -> None:
    """An empty OPENAI_API_KEY or TAILRACE_SLOTS would be a wrong one."""
    assert set(services(ENV)["worker"].environment) == {"TAILRACE_REDIS_URL"}
    assert services({**ENV, "TAILRACE_SLOTS": "7"})["worker"].environment["TAILRACE_SLOTS"] == "7"


@each_service
def test_health_checks_are_well_formed(service: Service) -> None:
    check = service.spec.get("healthcheck")
    if check is None:
        assert service.name == "worker"
        return
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert all(isinstance(word, str) for word in check["test"])
    assert 0 < seconds(check["timeout"]) <= seconds(check["interval"])
    assert seconds(check["start_period"]) > 0


@each_service
def test_who_waits_for_health_waits_for_a_service_that_has_a_health_check(service: Service) -> None:
    for name, how in service.spec.get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}
        assert "healthcheck" in ALL[name].spec


@pytest.mark.parametrize("service", OURS, ids=lambda service: service.name)
def test_nothing_stands_in_the_way_of_scale(service: Service) -> None:
    assert not STANDS_IN_THE_WAY_OF_SCALE & set(service.spec)


@each_service
def test_containers_may_do_little(service: Service) -> None:
    spec = service.spec
    assert (spec["read_only"], spec["cap_drop"], spec["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert service in OURS or spec["user"] not in {"", "root", "0"}
    assert spec["restart"] == "unless-stopped"
    assert spec["logging"]["options"] == {"max-size": "10m", "max-file": "5"}


def test_processes_may_finish_their_drain() -> None:
    settings = Settings()
    grace = {service.name: seconds(service.spec["stop_grace_period"]) for service in ALL.values()}
    assert grace["api"] >= settings.drain_s + EXIT_S
    assert grace["worker"] >= settings.worker_drain_s + EXIT_S


def test_the_world_meets_the_gateway_alone_and_on_loopback_unless_told_otherwise() -> None:
    assert {service.name: service.spec["ports"] for service in ALL.values() if "ports" in service.spec} == {
        "nginx": ["127.0.0.1:8080:8080"]
    }
    assert ALL["valkey"].spec["networks"] == ["store"]
    assert document()["networks"]["store"] == {"internal": True}
    assert "networks" not in ALL["nginx"].spec


def test_the_gateways_mounts_hold_what_its_commands_name() -> None:
    for service in (ALL["nginx"], services(ENV, TLS_FILE)["nginx"]):
        source, target = service.spec["volumes"][0].split(":")[:2]
        configuration = service.command[service.command.index("-c") + 1]
        assert (COMPOSE_FILE.parent / source / configuration.removeprefix(f"{target}/")).is_file()


def test_the_store_is_the_server_that_the_tests_run_on_and_keeps_what_it_is_given(tmp_path: Any) -> None:
    command = ALL["valkey"].command
    options = dict(zip(command[1::2], command[2::2], strict=True))
    binary = embedded_valkey(tmp_path).argv[0]
    tested = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout

    assert f" v={ALL['valkey'].spec['image'].split(':')[1].removesuffix('-alpine')} " in tested
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--maxmemory"] == "1gb"
    assert options["--requirepass"] == ENV["TAILRACE_VALKEY_PASSWORD"]
