"""Settings: a laptop needs none, each can be set by its variable, and one that is wrong is refused by name."""

import os
import re
from base64 import b64encode
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.principals import digest_of
from shared.settings import Settings

LOOPBACK = ("127.0.0.1", "127.0.0.2", "127.255.255.254", "localhost", "::1", "[::1]", "0:0:0:0:0:0:0:1")
BEYOND = (
    "0.0.0.0", "::", "[::]", "", "10.0.0.5", "192.168.1.1", "169.254.169.254", "fe80::1", "2001:db8::1",
    "example.com", "localhost.example.com", "127.0.0.1.example.com", "127.1", "0", "2130706433", " 127.0.0.1",
)  # fmt: skip
ROOT = Path(__file__).parents[2]
UNITS = (
    "_s", "_ms", "_bytes", "_events", "_tokens", "_connections", "_jobs", "_tries", "_percent", "_port", "_readers",
    "_per_job", "_per_day",
)  # fmt: skip
COUNTS = {"port", "slots", "replicas", "retry_budget_floor", "circuit_failures", "key_request_burst"}
NOT_SETTINGS = {"TAILRACE_READY_FD", "TAILRACE_URL", "TAILRACE_API_KEY", "TAILRACE_PROVIDER", "TAILRACE_MODEL"}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TAILRACE_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_default_and_is_set_by_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default = getattr(Settings(), name)
    assert not Settings.model_fields[name].is_required()
    monkeypatch.setenv(f"TAILRACE_{name.upper()}", "" if default == {} else str(default))
    assert getattr(Settings(), name) == default


def test_no_secret_shows_where_settings_are_shown() -> None:
    secrets = [name for name in Settings.model_fields if name.endswith(("_url", "_keys"))]
    assert {"redis_url", "control_redis_url", "api_keys", "token_keys", "encryption_keys"} == set(secrets)
    assert "canary" not in repr(Settings(**dict.fromkeys(secrets, "canary")))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_numbers_unit_stands_in_its_name(name: str) -> None:
    if type(getattr(Settings(), name)) in (int, float):
        assert name.endswith(UNITS) or name in COUNTS


def test_every_variable_that_the_code_names_is_a_setting() -> None:
    sources = [path for folder in ("api", "worker", "shared", "cli") for path in (ROOT / folder).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"TAILRACE_[A-Z][A-Z_]+[A-Z]", path.read_text())}
    assert named - {f"TAILRACE_{name.upper()}" for name in Settings.model_fields} <= NOT_SETTINGS


@pytest.mark.parametrize(("name", "value"), [
    ("redis_timeout_s", "0"), ("redis_max_connections", "1"), ("queue_name", ""), ("port", "65536"), ("port", "-1"),
    ("port", "http"), ("max_body_bytes", "10"), ("heartbeat_s", "0"), ("write_timeout_s", "-1"), ("tail_tick_s", "0"),
    ("tail_ring_events", "1"), ("job_deadline_s", "0"), ("job_ttl_s", "0"), ("slots", "0"), ("lease_s", "0"),
    ("lease_renew_s", "0"), ("provider_tries", "0"), ("provider_tries", "11"), ("log_level", "loud"),
    ("storage_patience_s", "soon"), ("retry_cap_s", "0"), ("retry_budget_percent", "101"), ("retry_budget_floor", "-1"),
    ("circuit_failures", "-1"), ("circuit_open_s", "0"), ("worker_metrics_port", "65536"),
])  # fmt: skip
def test_a_value_out_of_bounds_is_refused_by_the_name_of_its_setting(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TAILRACE_{name.upper()}", value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert [error["loc"] for error in caught.value.errors()] == [(name,)]


def test_a_lease_that_is_renewed_too_late_is_refused() -> None:
    with pytest.raises(ValidationError):
        Settings(lease_s=2, lease_renew_s=2)


def test_settings_do_not_change_while_a_process_runs() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]  # that it is refused is the point


def test_the_control_store_is_the_log_store_unless_it_is_named() -> None:
    assert Settings(redis_url="redis://a").control_url == "redis://a"
    assert Settings(redis_url="redis://a", control_redis_url="redis://b").control_url == "redis://b"


@pytest.mark.parametrize(("text", "chains"), [
    ("", {}),
    (" , ", {}),
    ("support=myapp.chains:support", {"support": "myapp.chains:support"}),
    (" a = x:y , b=z.w:v.u, ", {"a": "x:y", "b": "z.w:v.u"}),
    ("a=x:y=z", {"a": "x:y=z"}),
])  # fmt: skip
def test_chains_are_read_from_one_line(text: str, chains: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_CHAINS", text)
    assert Settings().chains == chains


@pytest.mark.parametrize(
    "part",
    [
        "support",
        "support=",
        "support=myapp",
        pytest.param("=x:y"),
        pytest.param("a=:y"),
        pytest.param("a=x:"),
    ],
)
def test_a_chain_that_is_not_name_module_attribute_is_refused_with_the_part(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILRACE_CHAINS", f"good=x:y,{part}")
    with pytest.raises(ValidationError, match=re.escape(repr(part))):
        Settings()


@pytest.mark.parametrize(("text", "keys"), [
    ("", {}),
    ("acme:s3cret", {"s3cret": "acme"}),
    (" acme:one , acme:two,b_-9:three,", {"one": "acme", "two": "acme", "three": "b_-9"}),
    ("acme:with:colons:", {"with:colons:": "acme"}),
])  # fmt: skip
def test_api_keys_are_read_from_one_line(text: str, keys: dict[str, str]) -> None:
    chosen = Settings(api_keys=text).chosen_keys
    assert {key.digest: key.tenant for key in chosen.values()} == {digest_of(key): name for key, name in keys.items()}


@pytest.mark.parametrize("text", ["s3cret", "acme:", ":s3cret", "a/b:s3cret", "a b:s3cret", "{a}:s3cret", "-:s3cret"])
def test_api_keys_that_are_not_tenant_and_key_are_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match="TAILRACE_API_KEYS is tenant:key") as caught:
        _ = Settings(api_keys=f"good:one,{text}").chosen_keys
    assert "s3cret" not in str(caught.value)


def test_one_key_for_two_tenants_is_refused() -> None:
    with pytest.raises(ValueError, match="TAILRACE_API_KEYS"):
        _ = Settings(api_keys="acme:same,umbrella:same").chosen_keys


def test_a_file_of_keys_counts_beside_the_setting(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# of the file\nacme:one\numbrella:two\n")
    chosen = Settings(api_keys="acme:three", api_keys_file=str(tmp_path / "keys")).chosen_keys
    assert chosen.keys() == {digest_of(key) for key in ("one", "two", "three")}


def test_a_file_of_keys_that_cannot_be_read_opens_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="TAILRACE_API_KEYS_FILE"):
        _ = Settings(api_keys_file=str(tmp_path / "missing")).chosen_keys
    (tmp_path / "keys").write_text("umbrella:same")
    with pytest.raises(ValueError, match="TAILRACE_API_KEYS_FILE"):
        _ = Settings(api_keys="acme:same", api_keys_file=str(tmp_path / "keys")).chosen_keys


@pytest.mark.parametrize("host", LOOPBACK)
def test_what_only_this_machine_reaches_is_loopback(host: str) -> None:
    assert Settings(host=host).on_loopback


@pytest.mark.parametrize("host", BEYOND)
def test_everything_else_is_not(host: str) -> None:
    assert not Settings(host=host).on_loopback


def test_a_ring_of_keys_is_read_from_the_setting_and_then_from_its_file(tmp_path: Path) -> None:
    one, two = (b64encode(bytes([number]) * 32).decode() for number in (1, 2))
    path = tmp_path / "ring"
    path.write_text(f"# the old one\nb:{two}\n")
    settings = Settings(encryption_keys=f"a:{one}", encryption_keys_file=str(path))
    assert [key.id for key in settings.encryption_ring] == ["a", "b"]
    assert Settings().encryption_ring == []
    path.unlink()
    with pytest.raises(ValueError, match="TAILRACE_ENCRYPTION_KEYS_FILE cannot be read"):
        settings.encryption_ring  # noqa: B018 - read for its check


def test_what_is_wrong_with_the_settings_is_said_without_showing_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_API_KEYS", "acme:canary")
    monkeypatch.setenv("TAILRACE_ENCRYPTION_KEYS", "k1:canary")
    monkeypatch.setenv("TAILRACE_LEASE_S", "1")
    with pytest.raises(ValueError, match="TAILRACE_LEASE_RENEW_S") as caught:
        Settings()
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n", "# acme:key\n", ",\n"])
def test_a_file_of_keys_without_a_key_opens_no_door_and_seals_nothing_in_silence(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ValueError, match="TAILRACE_API_KEYS_FILE is set and holds no key"):
        _ = Settings(api_keys_file=str(tmp_path / "keys")).chosen_keys
    with pytest.raises(ValueError, match="TAILRACE_ENCRYPTION_KEYS_FILE holds no key"):
        _ = Settings(encryption_keys_file=str(tmp_path / "keys")).encryption_ring


def test_a_setting_of_keys_without_a_key_opens_no_door() -> None:
    with pytest.raises(ValueError, match="TAILRACE_API_KEYS is set and holds no key"):
        _ = Settings(api_keys=" , ").chosen_keys
    assert Settings(api_keys="").chosen_keys == {}


def test_a_chosen_key_that_would_be_read_as_a_token_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="capability token") as caught:
        _ = Settings(api_keys="acme:visible.with.dots").chosen_keys
    assert "visible" not in str(caught.value)
