"""Which `TAILRACE_*` variables there are, and which of the environment's are none: a misspelt limit holds nobody."""

import difflib
from collections.abc import Iterable, Mapping

from shared.settings import Settings
from shared.telemetry import READY_FD

_PREFIX = "TAILRACE_"
_SETTINGS = [name.upper() for name in Settings.model_fields]
# Of the commands that ask a node; of docker-compose.yml and deploy/, where they may be exported; of the tests.
_OTHERS = """
    URL API_KEY PROVIDER MODEL
    VALKEY_PASSWORD VALKEY_MAXMEMORY SECRETS_DIR BIND TLS_DIR TLS_BIND TLS_PORT
    TEST_URL TEST_API_KEY TEST_NODE TEST_REQUIRE MODEL_EXAMPLES UPDATE_DOCS UPDATE_SCREENSHOT
"""
KNOWN = frozenset({READY_FD, *(_PREFIX + name for name in (*_SETTINGS, *_OTHERS.split()))})


def unknown(environment: Iterable[str]) -> list[str]:
    """The names of the environment that look like settings and are none. Letters' case does not matter to settings."""
    return sorted(name for name in environment if name.upper().startswith(_PREFIX) and name.upper() not in KNOWN)


def warning(environment: Mapping[str, str]) -> str:
    """One sentence for all of them, with the settings that may be meant and without their values; "" where all is well.

    A process that has a supervisor leaves it to that one, or every child would say it again.
    """
    names = [] if READY_FD in environment else unknown(environment)
    if not names:
        return ""
    return f"These variables set nothing, for there are no such settings: {', '.join(map(_with_nearest, names))}."


def _with_nearest(name: str) -> str:
    near = difflib.get_close_matches(name.upper().removeprefix(_PREFIX), _SETTINGS, n=1)
    return f"{name} (is {_PREFIX}{near[0]} meant?)" if near else name
