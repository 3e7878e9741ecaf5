"""ARCHITECTURE.md shows the states as they are. `TAILRACE_UPDATE_DOCS=1` writes the diagram anew."""

import os
import re
from pathlib import Path

from shared.jobs import TRANSITIONS
from shared.storage import keys

PAGE = Path(__file__).parents[2] / "ARCHITECTURE.md"
_BLOCK = re.compile(r"(<!-- states: .*?-->\n)```mermaid\n.*?```\n(<!-- /states -->)", re.DOTALL)


def state_diagram() -> str:
    """The transition table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> queued: POST"]
    for status, acts in TRANSITIONS.items():
        lines += [f"    {status} --> {after}: {act}" for act, after in acts.items()]
        lines += [] if acts else [f"    {status} --> [*]"]
    return "\n".join(lines)


def test_the_diagram_is_the_table() -> None:
    page = PAGE.read_text()
    made = _BLOCK.sub(lambda found: f"{found[1]}```mermaid\n{state_diagram()}\n```\n{found[2]}", page)
    if os.environ.get("TAILRACE_UPDATE_DOCS"):
        PAGE.write_text(made)
        page = made

    assert page == made


def test_every_permanent_key_is_named() -> None:
    page = PAGE.read_text()

    for name in keys.PERMANENT:
        assert name in page
