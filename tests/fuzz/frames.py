"""What a stream of ours has to look like, whatever text is in it, judged by two parsers that are not ours.

The parsers are those of the SDKs of OpenAI and of LangGraph. The first check is on the bytes themselves, for a parser
may be lenient where another is not.
"""

import json
import re
from typing import Any, NamedTuple

from langgraph_sdk.sse import BytesLineDecoder
from langgraph_sdk.sse import SSEDecoder as Langgraphs
from openai._streaming import SSEDecoder as OpenAIs

from shared.events import TYPES

NAMES = {kind.type for kind in TYPES} | {"token_expired"}
_FRAME = re.compile(rb"(?:id: [0-9]+-[0-9]+\n)?(?:event: [a-z_]+\n)?data: [^\r\n]+\n\n|: [a-z]+\n|retry: [0-9]+\n")


class Seen(NamedTuple):
    """One event as a parser saw it. `id`: that of the last frame that had one."""

    id: str | None
    event: str | None
    data: Any


def frames(body: bytes) -> list[Seen]:
    """The events in `body`. AssertionError where a byte stands where none of ours does, or two parsers do not agree."""
    at = 0
    while at < len(body):
        found = _FRAME.match(body, at)
        assert found is not None, body[at : at + 200]
        at = found.end()
    seen = [
        Seen(event.id, event.event, json.loads(event.data))
        for event in OpenAIs().iter_bytes(iter([body]))
        if event.data
    ]
    assert seen == _by_langgraphs(body), body
    assert {event.event for event in seen} <= {*NAMES, None}, seen
    return seen


def _by_langgraphs(body: bytes) -> list[Seen]:
    lines, parser = BytesLineDecoder(), Langgraphs()
    found = [parser.decode(bytes(line)) for line in [*lines.decode(body), *lines.flush()]]
    return [Seen(event.id, event.event or None, event.data) for event in found if event is not None and event.data]
