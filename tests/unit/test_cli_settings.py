"""What is wrong with a command's settings: the one to mend stands by its name in the refusal."""

import os
from pathlib import Path

import pytest
import typer

from cli.settings import settings_with


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TAILRACE_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("variables", "begins"), [
    ({"TAILRACE_LEASE_S": "1"}, "TAILRACE_LEASE_RENEW_S must be at most half of TAILRACE_LEASE_S"),
    ({"TAILRACE_SLOTS": "0"}, "TAILRACE_SLOTS: "),
    ({"TAILRACE_CHAINS": "support"}, "TAILRACE_CHAINS: 'support' is not"),
    ({"TAILRACE_REDIS_URL": "h:6379"}, "TAILRACE_REDIS_URL does not begin with redis://"),
    ({"TAILRACE_REDIS_PASSWORD_FILE": "/not/there"}, "TAILRACE_REDIS_PASSWORD_FILE cannot be used: FileNotFoundError"),
    ({"TAILRACE_REDIS_URL": "rediss://h", "TAILRACE_REDIS_CA_FILE": "/not/there"},
     "TAILRACE_REDIS_CA_FILE cannot be used: FileNotFoundError"),
    ({"TAILRACE_REDIS_URL": "rediss://h", "TAILRACE_REDIS_CA_FILE": __file__},
     "TAILRACE_REDIS_CA_FILE cannot be used: is no PEM"),
    ({"TAILRACE_CONTROL_REDIS_URL": "redis://c", "TAILRACE_CONTROL_REDIS_PASSWORD_FILE": "/not/there"},
     "TAILRACE_CONTROL_REDIS_PASSWORD_FILE cannot be used"),
    ({"TAILRACE_REDIS_URL": "rediss://h?ssl_certfile=/not/there"},
     "A file in the query of TAILRACE_REDIS_URL cannot be used"),
])  # fmt: skip
def test_the_setting_that_is_wrong_is_named_and_no_other(
    variables: dict[str, str], begins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(typer.BadParameter) as refused:
        settings_with()
    assert refused.value.message.startswith(begins)


def test_two_passwords_are_refused_by_the_names_of_both_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("of-the-file")
    monkeypatch.setenv("TAILRACE_REDIS_URL", "redis://:in-the-url@h")
    monkeypatch.setenv("TAILRACE_REDIS_PASSWORD_FILE", str(tmp_path / "password"))
    with pytest.raises(typer.BadParameter, match=r"TAILRACE_REDIS_URL .* TAILRACE_REDIS_PASSWORD_FILE") as refused:
        settings_with()
    assert "in-the-url" not in refused.value.message
