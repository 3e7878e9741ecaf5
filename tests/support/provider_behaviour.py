"""What the local provider server does with a request: its answers, its faults, and the words to ask for them.

An answer is a pure function of the request, so that a test can say beforehand which bytes have to come out. A request
asks for more than a plain answer by words anywhere in its model name or its messages:

    fault:<kind>[:<after>[:<times>]]   break after <after> pieces (default 0), at the first <times> calls (default: all)
    tokens:<n>  rate:<per second>  first:<ms>  reasoning:<n>  tools:<n>  cut:utf8  cut:surrogates  usage:no

Kinds: an HTTP status (400 … 599), `quota`, `refuse` (close without an answer), `hang` (answer nothing), `page` (HTML);
in the stream `stall`, `drop` (reset), `end` (end cleanly without the end mark), `garbage`, `error` (an error frame),
`late` (drop once the reason of the end was said), `linger` (say everything and leave the response open), `empty` (end
properly without content).
"""

import hashlib
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Turn = tuple[str, str]
"""Role and text of one message."""

_WORDS = "river mill weir sluice heron alder über naïve côté 水車 река 🌊 🪶 👩‍🔬 e\u0301té ∑ “so” dark-green".split()  # noqa: SIM905
_DIRECTIVE = re.compile(r"\b(fault|tokens|rate|first|reasoning|tools|cut|usage):([a-z0-9.]+)(?::(\d+))?(?::(\d+))?")


@dataclass(frozen=True)
class ToolUse:
    """A tool call to stream, its argument text cut into pieces."""

    id: str
    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Behaviour:
    """What to do with one request. `pieces` None: the answer that follows from the request.

    `after` counts content pieces (reasoning, text and tool pieces) that are sent before the fault; `times` 0: always.
    """

    fault: str = ""
    after: int = 0
    times: int = 0
    pieces: tuple[str, ...] | None = None
    tokens: int = 24
    reasoning: tuple[str, ...] = ()
    tools: tuple[ToolUse, ...] = ()
    finish: str = ""
    usage: bool = True
    headers: tuple[tuple[str, str], ...] = ()
    error: Any = None
    cut: str = ""
    rate: float = 0.0
    first_ms: float = 0.0

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return int(self.fault) if self.fault.isdecimal() else 429 if self.fault == "quota" else 200


def turns(body: dict[str, Any]) -> list[Turn]:
    """The conversation in a request of either vendor, as plain text and without the system's part."""
    found = [(message["role"], _text(message.get("content"))) for message in body["messages"]]
    return [turn for turn in found if turn[0] not in {"system", "developer"}]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or ())


def answer(model: str, conversation: Sequence[Turn], tokens: int = 24) -> str:
    """The text that answers a conversation. One that asks to go on from a partial answer gets just the rest of it."""
    if len(conversation) > 2 and conversation[-2][0] == "assistant":
        whole, partial = answer(model, conversation[:-2], tokens), conversation[-2][1]
        if whole.startswith(partial):
            return whole[len(partial) :]
    seed = hashlib.sha256(json.dumps([model, list(conversation)]).encode()).hexdigest()
    chance = random.Random(seed)
    return " ".join(chance.choice(_WORDS) for _ in range(tokens)) + "."


def behaviour(body: dict[str, Any]) -> Behaviour:
    """The behaviour that a request asks for in its own words."""
    asked = Behaviour()
    changes: dict[str, Any] = {}
    said = " ".join([body["model"], *(text for _, text in turns(body))])
    for word, value, number, times in _DIRECTIVE.findall(said):
        match word:
            case "fault":
                changes |= {"fault": value, "after": int(number or 0), "times": int(times or 0)}
            case "tokens":
                changes["tokens"] = int(value)
            case "rate":
                changes["rate"] = float(value)
            case "first":
                changes["first_ms"] = float(value)
            case "reasoning":
                changes["reasoning"] = tuple(f"thought {count}. " for count in range(int(value)))
            case "tools":
                changes["tools"] = tuple(
                    ToolUse(f"call_{n}", "lookup", ('{"n":', f" {n}}}")) for n in range(int(value))
                )
            case "cut":
                changes["cut"] = value
            case "usage":
                changes["usage"] = value != "no"
    return Behaviour(**{**asked.__dict__, **changes})


def cut(text: str, how: str) -> list[str]:
    """The pieces a text is sent in: after each blank, or with every surrogate pair in two halves."""
    if how != "surrogates":
        return re.findall(r"\S*\s|\S+", text)
    units = text.encode("utf-16-le", "surrogatepass")
    return [units[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(units), 2)]
