"""The server-side scripts as text: loaded with our tables, documented at their head, flagged for a full memory."""

import json
import re
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from shared.jobs import MAX_ATTEMPTS, MAX_CRASHES, TRANSITIONS
from shared.storage import keys, scripts
from shared.storage.scripts import ALL, OF_JOBS, OF_LIMITS, OF_TURNS, Script

FOLDER = Path(scripts.__file__).parent
FILES = sorted(path for path in FOLDER.glob("*.lua") if path.name != "lib.lua")
by_name = pytest.mark.parametrize("script", ALL, ids=lambda script: script.name)


def _head(path: Path) -> str:
    """The comment that a file begins with."""
    lines = path.read_text().splitlines()
    first_code = next(place for place, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(lines[:first_code])


def _preamble(script: Script) -> str:
    """What the loader has put in front of a script's own body."""
    return script.plain.removesuffix((FOLDER / f"{script.name}.lua").read_text())


def _given(script: Script, name: str) -> Any:
    """The value of a constant that the loader gives to a script."""
    with fakeredis.FakeRedis(decode_responses=True) as redis:
        return json.loads(str(redis.eval(f"{_preamble(script)}\nreturn cjson.encode({name})", 5, *"abcde")))


def _code(text: str) -> str:
    """Lua without comments and strings."""
    return re.sub(r"--[^\n]*|'[^']*'", "", text)


@by_name
def test_a_script_decides_by_the_very_table_of_transitions(script: Script) -> None:
    without = ("create_v1", "append_v2", "read_v1", "pardon_v1", "compact_v1")
    if script not in OF_JOBS or script.name in without:
        assert "TRANSITIONS" not in script.plain  # they change no state
        return
    loaded = {status: acts or {} for status, acts in _given(script, "TRANSITIONS").items()}  # [] is Lua's empty table
    assert loaded == {
        status.value: {act.value: after.value for act, after in acts.items()} for status, acts in TRANSITIONS.items()
    }


@pytest.mark.parametrize(("name", "value"), [
    ("MAX_ATTEMPTS", MAX_ATTEMPTS),
    ("MAX_CRASHES", MAX_CRASHES),
    ("TOMBSTONE_MS", keys.TOMBSTONE_MS),
    ("OPEN_SLACK_MS", keys.OPEN_SLACK_MS),
    ("ERASE_MS", keys.ERASE_MS),
    ("OPS_MS", keys.OPS_MS),
    ("COMPACT_FORM_MS", keys.COMPACT_FORM_MS),
    ("WAITING_MS", keys.WAITING_MS),
    ("WAKE_MS", keys.WAKE_MS),
    ("WAITING_PREFIX", keys.WAITING_PREFIX),
    ("RUNNING_PREFIX", keys.RUNNING_PREFIX),
])  # fmt: skip
def test_the_scripts_have_the_limits_times_and_names_of_ours(name: str, value: int | str) -> None:
    given = {_given(script, name) for script in ALL if name in script.plain}
    assert given == {value}


@by_name
def test_a_script_carries_all_that_it_uses(script: Script) -> None:
    """What is not defined is nil in Lua, and shows only on the path that meets it."""
    code = _code(script.plain)
    defined = set(re.findall(r"local function (\w+)", code)) | set(re.findall(r"local (\w+) =", code))
    called = set(re.findall(r"(?<![.\w:])(\w+)\(", code))
    assert called - defined <= {"function", "tonumber", "tostring", "next", "if", "and", "or", "not", "return"}
    assert set(re.findall(r"\b[A-Z]{2,}(?:_[A-Z]+)*\b", code)) - defined <= {"KEYS", "ARGV"}


def test_every_script_file_is_loaded_and_no_other() -> None:
    assert sorted(script.name for script in ALL) == [path.stem for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_script_names_its_arguments_and_its_answers(path: Path) -> None:
    head = _head(path)
    assert head.startswith(f"-- {path.stem}: ")
    assert "\n-- ARGV: " in head
    assert re.search(r"\bAnswers \{", head)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_script_uses_the_arguments_that_it_names_and_no_other(path: Path) -> None:
    head = _head(path)
    named = {int(number) for number in re.findall(r"(?<![\w`])(\d)…? [a-z`'(]", head.partition("-- ARGV:")[2])}
    body = path.read_text().removeprefix(head)
    used = {int(number) for number in re.findall(r"ARGV\[(\d)\]", body)}
    used |= {int(number) for number in re.findall(r"add_pairs\(.*, (\d)\)", body)}
    assert used == {number for number in named if number <= max(used, default=0)}


@by_name
def test_a_scripts_name_carries_its_version(script: Script) -> None:
    assert re.fullmatch(r"[a-z]+_v[1-9]", script.name)


@by_name
def test_a_real_server_is_told_which_scripts_may_run_when_memory_is_full(script: Script) -> None:
    first, _, rest = script.flagged.partition("\n")
    ends_or_keeps_a_job = {"finish_v1", "end_v1", "renew_v1", "release_v1", "delete_v1", "read_v1", "spend_v1"}
    makes_room = {"compact_v1", *(script.name for script in OF_TURNS)}
    assert first == ("#!lua flags=allow-oom" if script.name in ends_or_keeps_a_job | makes_room else "#!lua")
    assert rest == script.plain
    assert script.sha(True) != script.sha(False)


@pytest.mark.parametrize("script", [*OF_JOBS, *OF_LIMITS], ids=lambda script: script.name)
def test_a_script_touches_no_key_but_its_jobs_own(script: Script) -> None:
    calls = re.findall(r"redis\.call\('(\w+)',\s*([^,)]+)", script.plain)
    assert {key.strip() for name, key in calls if name not in ("TIME", "PUBLISH")} <= {
        "KEYS[1]", "KEYS[2]", "KEYS[3]", "KEYS[4]", "KEYS[5]", "KEYS[i]", "log", "meta",
        *(["KEYS[6]"] if script.name == "compact_v1" else []),
    }  # fmt: skip
