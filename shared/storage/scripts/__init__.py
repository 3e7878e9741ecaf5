"""The server-side scripts: read from the .lua files beside this one, completed with our tables, and run by their hash.

A script's name carries its version: a change of meaning is a new file, so that old and new processes can share a store.
On disk they carry no shebang (fakeredis cannot read one); a real server gets it here, with `allow-oom` for those that
must end a job, keep it, or make it smaller when memory is full.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from shared import jobs
from shared.storage import keys

_FOLDER = Path(__file__).parent
_FUNCTION = re.compile(r"^local function (?P<name>\w+).*?^end\n", re.MULTILINE | re.DOTALL)
_ALLOW_OOM = frozenset(
    {"finish_v1", "end_v1", "renew_v1", "release_v1", "delete_v1", "read_v1", "compact_v1", "spend_v1"}
    # Offers that are moved about take no room, and to start jobs is the way to get rid of them.
    | {"take_v1", "ring_v1", "defer_v1", "sit_v1", "leave_v1"}
)


def _lua_table(table: dict[jobs.Status, dict[jobs.Act, jobs.Status]]) -> str:
    rows = (
        f"{status.value}={{{','.join(f'{act.value}={after.value!r}' for act, after in acts.items())}}}"
        for status, acts in table.items()
    )
    return "{" + ",".join(rows) + "}"


def _pieces() -> dict[str, str]:
    """What a script may need, by the name that it uses it by: our constants, and the functions of lib.lua in order."""
    constants = {
        "MAX_ATTEMPTS": jobs.MAX_ATTEMPTS,
        "MAX_CRASHES": jobs.MAX_CRASHES,
        "TOMBSTONE_MS": keys.TOMBSTONE_MS,
        "OPEN_SLACK_MS": keys.OPEN_SLACK_MS,
        "ERASE_MS": keys.ERASE_MS,
        "OPS_MS": keys.OPS_MS,
        "COMPACT_FORM_MS": keys.COMPACT_FORM_MS,
        "WAITING_MS": keys.WAITING_MS,
        "WAKE_MS": keys.WAKE_MS,
        "WAITING_PREFIX": repr(keys.WAITING_PREFIX),
        "RUNNING_PREFIX": repr(keys.RUNNING_PREFIX),
        "TRANSITIONS": _lua_table(jobs.TRANSITIONS),
    }
    pieces = {name: f"local {name} = {value}\n" for name, value in constants.items()}
    for function in _FUNCTION.finditer((_FOLDER / "lib.lua").read_text()):
        pieces[function["name"]] = function[0]
    return pieces


def _complete(body: str) -> str:
    """The script with those pieces in front of it that it needs: what is defined at every call costs at every call."""
    needed = ""
    for name, piece in reversed(_pieces().items()):
        if re.search(rf"\b{name}\b", needed + body):
            needed = piece + needed
    return needed + body


@dataclass(frozen=True, slots=True)
class Script:
    """One script: `plain` for a server without script flags, `flagged` for a real one."""

    name: str
    plain: str
    flagged: str
    hashes: tuple[str, str]

    def source(self, flags: bool) -> str:
        """The text to load."""
        return self.flagged if flags else self.plain

    def sha(self, flags: bool) -> str:
        """The hash that EVALSHA wants."""
        return self.hashes[flags]


def _sha(source: str) -> str:
    return hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


def _load(name: str) -> Script:
    body = _complete((_FOLDER / f"{name}.lua").read_text())
    shebang = "#!lua flags=allow-oom" if name in _ALLOW_OOM else "#!lua"
    flagged = f"{shebang}\n{body}"
    return Script(name, body, flagged, (_sha(body), _sha(flagged)))


_NAMES = "create_v1 claim_v1 append_v2 renew_v1 finish_v1 end_v1 release_v1 delete_v1 read_v1 pardon_v1 compact_v1"
OF_JOBS = tuple(map(_load, _NAMES.split()))
"""The scripts of a job, which the log store runs."""
CREATE, CLAIM, APPEND, RENEW, FINISH, END, RELEASE, DELETE, READ, PARDON, COMPACT = OF_JOBS

OF_LIMITS = tuple(map(_load, ("permits_v1", "admit_v1", "spend_v1", "readers_v1")))
"""The scripts of limits, which the control store runs."""
PERMITS, ADMIT, SPEND, READERS = OF_LIMITS

OF_TURNS = tuple(map(_load, ("take_v1", "ring_v1", "defer_v1", "sit_v1", "leave_v1")))
"""The scripts of the tenants' turns, which the control store runs."""
TAKE, RING, DEFER, SIT, LEAVE = OF_TURNS

ALL = (*OF_JOBS, *OF_LIMITS, *OF_TURNS)
