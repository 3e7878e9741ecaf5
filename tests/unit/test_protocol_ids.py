"""PROTOCOL.md against tests and code: every promise is proven, every proof is promised, every code is explained."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from shared.errors import CODES
from shared.params import _MODELS, PROVIDERS
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
PROTOCOL = (ROOT / "PROTOCOL.md").read_text()
ERRORS = (ROOT / "docs" / "errors.md").read_text()
_ID = re.compile(r"\[([A-Z]{2}-[0-9]+)\]")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def files_and_tests(folder: str) -> list[tuple[str, _Function]]:
    """Every test under a folder, with its file."""
    return [
        (str(path.relative_to(ROOT)), node)
        for path in sorted((ROOT / folder).rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, _Function) and node.name.startswith("test_")
    ]


def marks(node: ast.AST) -> Iterator[str]:
    """The ids of every `pytest.mark.requirement(…)` in a piece of code."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.requirement":
            for argument in call.args:
                yield ast.literal_eval(argument)


def proven() -> dict[str, set[str]]:
    """Id → the tests that are marked with it."""
    found: dict[str, set[str]] = {}
    for path, function in files_and_tests("tests"):
        for name in (name for decorator in function.decorator_list for name in marks(decorator)):
            found.setdefault(name, set()).add(f"{path}::{function.name}")
    return found


def section(title: str) -> str:
    """A section of PROTOCOL.md."""
    found = re.search(rf"^## \d+ {re.escape(title)}\n(.*?)(?=^## |\Z)", PROTOCOL, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def test_every_promise_is_proven_by_a_test() -> None:
    assert sorted(set(_ID.findall(PROTOCOL)) - set(proven())) == []


def test_every_proof_is_of_a_promise() -> None:
    promised = set(_ID.findall(PROTOCOL))
    assert {name: tests for name, tests in proven().items() if name not in promised} == {}


def test_every_contract_test_says_what_it_proves() -> None:
    silent = [
        test.name
        for _, test in files_and_tests("tests/contract")
        if not any(map(list, map(marks, test.decorator_list)))
    ]
    assert silent == []


@pytest.mark.requirement("ER-1")
def test_the_table_of_codes_is_the_servers() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \| (yes|no) \| (.+) \|$", section("Errors"), re.MULTILINE)
    ours = [(kind.code, str(kind.status), "yes" if kind.retryable else "no", kind.title) for kind in CODES.values()]
    assert rows == ours


def test_the_page_on_errors_explains_every_code_in_the_order_of_the_table() -> None:
    assert re.findall(r"^### `(\w+)`$", ERRORS, re.MULTILINE) == list(CODES)


@pytest.mark.parametrize("code", CODES)
def test_the_page_says_what_a_code_means_whose_fault_it_is_and_what_to_do(code: str) -> None:
    _, _, rest = ERRORS.partition(f"### `{code}`\n")
    text = re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]
    assert [label for label in ("Means", "Fault", "Retry", "Do") if f"**{label}:**" not in text] == []
    assert f"**Retry:** {'yes' if CODES[code].retryable else 'no'}." in text
    problem = re.search(r"Problem, (\d{3})", text)
    assert problem is None or int(problem[1]) == CODES[code].status


def test_every_setting_that_is_named_exists() -> None:
    named = set(re.findall(r"TAILRACE_([A-Z_]+)", PROTOCOL + ERRORS)) - {"TEST_URL"}
    assert {name for name in named if name.lower() not in Settings.model_fields} == set()


def test_the_defaults_in_the_table_of_limits_are_the_servers() -> None:
    rows = re.findall(r"`TAILRACE_([A-Z_]+)`, ([0-9,]+)", section("Limits"))
    assert len(rows) > 10
    defaults = Settings.model_construct()
    assert [
        (name, value) for name, value in rows if getattr(defaults, name.lower()) != float(value.replace(",", ""))
    ] == []


def test_the_allow_lists_are_the_servers() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+ \w+ [^|]+)` \|$", section("Operations"), re.MULTILINE))
    assert list(rows) == list(PROVIDERS)
    for provider, names in rows.items():
        assert re.sub(r"\{.*?\}", "", names).split() == list(_MODELS[provider].model_fields)
