"""Variables that set nothing: they are told of by name, and none that means something is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.variables import KNOWN, unknown, warning
from shared.settings import Settings
from shared.telemetry import READY_FD
from tests.support.cluster import clean_environment

ROOT = Path(__file__).parents[2]


def test_a_misspelt_limit_is_told_of_with_the_name_that_is_meant_and_without_its_value() -> None:
    said = warning({"TAILRACE_KEY_REQUEST_PER_S": "canary", "TAILRACE_SLOT": "9", "TAILRACE_QQ": "", "HOME": "/"})
    assert "TAILRACE_KEY_REQUEST_PER_S (is TAILRACE_KEY_REQUESTS_PER_S meant?)" in said
    assert "TAILRACE_SLOT (is TAILRACE_SLOTS meant?)" in said
    assert "TAILRACE_QQ" in said
    assert "canary" not in said


def test_settings_are_known_in_small_letters_too_as_they_count() -> None:
    names = [f"TAILRACE_{name.upper()}" for name in Settings.model_fields]
    assert unknown([*names, *map(str.lower, names)]) == []
    assert unknown(["tailrace_slot"]) == ["tailrace_slot"]


def test_every_variable_that_this_project_names_is_known() -> None:
    folders = ("api", "benchmarks", "chaos", "cli", "clients", "deploy", "docs", "shared", "tests", "worker")
    suffixes = (".py", ".yml", ".md", ".sh", ".toml", "Makefile", "Dockerfile")
    paths = [*ROOT.glob("*"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    files = [path for path in paths if path.name.endswith(suffixes) and path != Path(__file__)]
    named = {name for file in files for name in re.findall(r"\bTAILRACE_[A-Z_]*[A-Z]\b(?![{_*…])", file.read_text())}
    assert len(named) > 50
    assert named - KNOWN == set()


def test_a_child_leaves_it_to_its_supervisor() -> None:
    assert warning({"TAILRACE_SLOT": "9", READY_FD: "3"}) == ""


@pytest.mark.parametrize("command", ["api", "worker", "up"])
def test_whoever_starts_a_process_is_warned_once(command: str, tmp_path: Path) -> None:
    misspelt = {"TAILRACE_KEY_REQUEST_PER_S": "1", "TAILRACE_DATA_DIR": str(tmp_path), "TAILRACE_PORT": "0"}
    # A store that is not there ends nodes and workers at once, or they would run until told otherwise.
    beyond = {
        "TAILRACE_HOST": "0.0.0.0",
        "TAILRACE_REDIS_URL": "redis://127.0.0.1:1/0",
        "TAILRACE_REDIS_TIMEOUT_S": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "cli.main", command],
        env={**clean_environment(), **misspelt, **beyond},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = ""
        try:
            for line in process.stderr:
                said += line
                if "TAILRACE_KEY_REQUESTS_PER_S meant" in line and command == "worker":
                    break  # it waits for its store
        finally:
            process.terminate()
        said += process.stderr.read()
    assert said.count("TAILRACE_KEY_REQUESTS_PER_S meant") == 1, said
