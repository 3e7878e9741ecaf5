"""docker-compose.yml as compose reads it: variables filled in, environment passed on."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
TLS_FILE = ROOT / "deploy" / "docker-compose.tls.yml"

_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<rule>:-|:\?)(?P<rest>[^}]*))?\}|)"
)


class RequiredError(Exception):
    """A variable that the file demands is not set: compose would refuse to start."""


@dataclass(frozen=True)
class Service:
    """One service, its variables filled in."""

    name: str
    spec: dict[str, Any]

    @property
    def command(self) -> list[str]:
        """The words that its container runs."""
        return list(self.spec["command"])

    @property
    def environment(self) -> dict[str, str]:
        """What its processes see."""
        return dict(self.spec.get("environment", {}))


def services(env: Mapping[str, str], *overrides: Path) -> dict[str, Service]:
    """The services by name, with `overrides` laid over them as `-f` does. RequiredError for a variable not given."""
    found: dict[str, dict[str, Any]] = {}
    for path in (COMPOSE_FILE, *overrides):
        for name, spec in document(path)["services"].items():
            filled = _filled(spec, env)
            filled["environment"] = {
                variable: env.get(variable) if value is None else value
                for variable, value in filled.get("environment", {}).items()
                if value is not None or variable in env
            }
            found[name] = _laid_over(found.get(name, {}), filled)
    return {name: Service(name, spec) for name, spec in found.items()}


def document(path: Path = COMPOSE_FILE) -> dict[str, Any]:
    """The file as YAML, nothing filled in."""
    read: dict[str, Any] = yaml.safe_load(path.read_text())
    return read


def variables(path: Path = COMPOSE_FILE) -> dict[str, set[str]]:
    """Every variable that the file's values use, with the rules it is used by (`:?` required, `:-` has a default)."""
    found: dict[str, set[str]] = {}
    for text in _strings(document(path)):
        for match in _VARIABLE.finditer(text):
            if match["name"]:
                found.setdefault(match["name"], set()).add(match["rule"] or "")
    return found


def filled(text: str, env: Mapping[str, str]) -> str:
    """One value with its variables filled in; ValueError for a form that this reader, or compose, does not know."""

    def one(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        name = match["name"]
        if name is None:
            raise ValueError(f"a lone $ in {text!r}")
        value = env.get(name, "")
        if value or not match["rule"]:
            return value
        if match["rule"] == ":?":
            raise RequiredError(f"{name}: {match['rest']}")
        return str(match["rest"])

    return _VARIABLE.sub(one, text)


def _filled(value: Any, env: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(part, env) for key, part in value.items()}
    if isinstance(value, list):
        return [_filled(part, env) for part in value]
    return filled(value, env) if isinstance(value, str) else value


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in _strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in _strings(part)]
    return [value] if isinstance(value, str) else []


def _laid_over(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """As compose merges files: tables by key, lists one after the other, but a command is replaced."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = {**merged[key], **value}
        elif isinstance(value, list) and isinstance(merged.get(key), list) and key not in {"command", "entrypoint"}:
            merged[key] = merged[key] + value
        else:
            merged[key] = value
    return merged
