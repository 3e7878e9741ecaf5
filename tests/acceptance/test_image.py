"""What the image is made of: our two wheels, pinned dependencies, and a recipe that keeps its promises."""

import fnmatch
import re
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.compose import ROOT

PACKAGES = ("api", "worker", "shared", "cli")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
IGNORE = (ROOT / ".dockerignore").read_text().splitlines()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, built from this checkout as the image builds them; by the name of their distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    for project in (ROOT / "clients" / "python", ROOT):
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(build, cwd=project, check=True, capture_output=True)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


def sources(folder: Path) -> set[str]:
    """Every file of a package, relative to where it is imported from."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder.parent)) for path in files}


def test_the_servers_wheel_holds_its_four_packages_whole_and_nothing_else(wheels: dict[str, Path]) -> None:
    held = {name for name in zipfile.ZipFile(wheels["tailrace"]).namelist() if ".dist-info/" not in name}

    assert held == {name for package in PACKAGES for name in sources(ROOT / package)}
    assert {f"{package}/py.typed" for package in PACKAGES} <= held
    assert any(name.endswith(".lua") for name in held)
    assert {"api/web/index.html"} <= held


def test_the_clients_wheel_holds_the_client_alone(wheels: dict[str, Path]) -> None:
    held = {name for name in zipfile.ZipFile(wheels["tailrace_client"]).namelist() if ".dist-info/" not in name}

    assert held == sources(ROOT / "clients" / "python" / "src" / "tailrace_client")


def test_the_command_runs_from_the_wheels_in_an_empty_folder(wheels: dict[str, Path], tmp_path: Path) -> None:
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, *map(str, wheels.values())], check=True, capture_output=True)
    # The dependencies are ours; a line of a .pth file brings no .pth files in, so the checkout stays out of sight.
    (installed,) = (environment / "lib").glob("python*/site-packages")
    (installed / "dependencies.pth").write_text(f"{site.getsitepackages()[0]}\n")

    where = "import api, cli, shared, worker; print(*{m.__path__[0] for m in (api, cli, shared, worker)}, sep='\\n')"
    found = subprocess.run([python, "-c", where], cwd=empty, check=True, capture_output=True, text=True).stdout
    said = subprocess.run([environment / "bin" / "tailrace", "version"], cwd=empty, check=True, capture_output=True)

    assert set(found.split()) == {str(installed / package) for package in PACKAGES}
    assert re.fullmatch(rb"tailrace \S+ \(tailrace-client \S+\)\n", said.stdout)


def pinned(lock: Path) -> dict[str, str]:
    """A lock's versions by package."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", ["requirements-server.lock", "requirements-build.lock"])
def test_the_image_gets_the_versions_that_the_tests_run_on_and_all_by_hash(name: str) -> None:
    lock = ROOT / "deploy" / name
    versions, tested = pinned(lock), pinned(ROOT / "requirements.lock")

    assert versions
    assert versions.items() <= tested.items()
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", lock.read_text()))
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in lock.read_text()


def test_the_servers_lock_is_all_that_it_runs_and_none_of_what_tests_it() -> None:
    versions = pinned(ROOT / "deploy" / "requirements-server.lock")

    assert {"fastapi", "arq", "redis", "uvicorn", "openai", "anthropic", "langchain", "langgraph"} <= set(versions)
    assert not {"pytest", "mypy", "ruff", "playwright", "fakeredis", "hatchling", "uv"} & set(versions)


def test_every_installation_in_the_image_is_checked_by_hash_or_of_our_own_wheels() -> None:
    runs = re.findall(r"^RUN (.*(?:\\\n.*)*)", DOCKERFILE, re.MULTILINE)
    installs = [step for run in runs for step in run.replace("\\\n", " ").split("&&") if " install " in step]

    assert installs
    for step in installs:
        assert ("--require-hashes" in step and "--only-binary :all:" in step) or "--no-deps --no-index" in step
    assert not re.search(r"apt-get|gcc|curl|ADD ", DOCKERFILE)


def test_the_image_runs_as_nobody_in_particular_from_a_folder_without_sources() -> None:
    last = DOCKERFILE.split("\nFROM ")[-1]

    assert re.search(r"^ARG PYTHON=\d+\.\d+\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"python:${PYTHON}"}
    assert re.findall(r"^COPY (.*)$", last, re.MULTILINE) == ["--from=venv /opt/tailrace /opt/tailrace"]
    assert re.search(r"^USER \d{4,}:\d{4,}$", last, re.MULTILINE)
    assert re.search(r"^WORKDIR /srv/tailrace$", last, re.MULTILINE)
    assert re.search(r'^CMD \["tailrace"', last, re.MULTILINE)


def test_what_the_image_copies_is_there_and_let_through() -> None:
    copied = [
        word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    ]

    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        rules = [rule for rule in IGNORE if rule and fnmatch.fnmatch(name, rule.removeprefix("!"))]
        assert rules[-1].startswith("!"), f"{name} does not pass .dockerignore"
