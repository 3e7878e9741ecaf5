"""The `scripted` provider: deterministic answers at a given pace, with faults on request, for demos, tests and chaos.

What it says is a pure function of `params`, the attempt and the text to go on from (`script` below), so that a checker
can compare every byte. It costs nothing and needs no network.
"""

import asyncio
import os
import random
import re
from collections.abc import AsyncGenerator, Iterator
from itertools import islice

from pydantic import ValidationError

from shared.errors import ProviderError
from shared.events import Token
from shared.jobs import Message
from shared.params import Fault, ScriptedParams
from worker.providers.base import Call, Finish, FinishReason, Piece
from worker.providers.pieces import count_tokens

PASSAGE = (
    "Below the mill the water has done its work, yet it is not spent: the tailrace carries it back to the river, "
    "cold and quick, ≈ 7 °C under the alders. “Nothing is lost on the way,” the miller’s daughter liked to say, "
    "and wrote it on the door in every language she knew — “rien ne se perd”, «ничто не пропадает», 何も失われない — "
    "with a small blue wave 🌊 beside each. When the sluice gate jammed, the wheel stood still and the pond rose; "
    "when it was freed, the stream took up again exactly where it had stopped, and the heron 🪶 on the weir, "
    "naïve as ever, supposed that it had only blinked. "
)
"""What is said where `text` is not given."""
MARK = "[…] "
"""Stands before a continuation of a text that this attempt would not have begun with."""
_BREATH = 32
"""Tokens between two turns of the event loop when nothing else makes the provider wait."""


def script(params: ScriptedParams, attempt: int, continue_text: str = "") -> Iterator[str]:
    """The tokens of one attempt, in order.

    Without `seed` every attempt says the same: the text, cut after each blank, repeated or cut to `tokens`. With it
    the tokens are drawn at random from that text, by seed and attempt alone. To go on from `continue_text`: where it
    begins this attempt's own text, the rest of that; otherwise MARK, then as many tokens as are still missing.
    """
    at = 0
    for token in _draw(params, attempt):
        if at == len(continue_text):
            yield token
        elif continue_text.startswith(token, at):
            at += len(token)
        elif token.startswith(continue_text[at:]):
            yield token[len(continue_text) - at :]
            at = len(continue_text)
        else:
            yield MARK
            yield from islice(_draw(params, attempt), len(_cut(continue_text)), None)
            return


def _draw(params: ScriptedParams, attempt: int) -> Iterator[str]:
    words = _cut(params.text or PASSAGE)
    total = params.tokens or len(words)
    chance = None if params.seed is None else random.Random(f"{params.seed}/{attempt}")
    for position in range(total):
        word = chance.choice(words) if chance else words[position % len(words)]
        last = position == total - 1
        yield word if last or word[-1].isspace() else f"{word} "


def _cut(text: str) -> list[str]:
    return re.findall(r"\S*\s|\S+", text)


class ScriptedProvider:
    """Says what `params` ask for. It holds nothing, and so has nothing to close."""

    name = "scripted"

    async def stream(self, call: Call) -> AsyncGenerator[Piece, None]:
        """The pieces of one answer; see Provider.stream. It honours `max_tokens` and ignores messages and model."""
        params = _params(call)
        fault = params.fault if params.fault and call.attempt <= params.fault.attempts else None
        tokens = iter(()) if fault and fault.kind == "empty" else script(params, call.attempt, call.continue_text)
        reason: FinishReason = "stop"
        pace = _Pace(params)
        count = 0
        for token in tokens:
            if count == call.max_tokens:
                reason = "length"
                break
            await _strike(fault, count)
            await pace.wait(count)
            yield Token(token)
            count += 1
        await _strike(fault, count)
        yield count_tokens(sum(_words(message) for message in call.messages), count)
        yield Finish(reason)

    async def aclose(self) -> None:
        """Nothing to give back."""


class _Pace:
    """When each token is due, counted from the start: lateness of one token does not delay the next."""

    def __init__(self, params: ScriptedParams) -> None:
        self._now = asyncio.get_running_loop().time
        self._first_s = self._now() + params.first_token_ms / 1000
        self._gap_s = 1 / params.tokens_per_s if params.tokens_per_s else 0.0

    async def wait(self, count: int) -> None:
        """Until the token after `count` others is due; now and then a turn for the others even when none has to be."""
        ahead_s = self._first_s + count * self._gap_s - self._now()
        if ahead_s > 0:
            await asyncio.sleep(ahead_s)
        elif count % _BREATH == 0:
            await asyncio.sleep(0)


async def _strike(fault: Fault | None, count: int) -> None:
    if fault is None or count != fault.after:
        return
    match fault.kind:
        case "error":
            raise ProviderError("provider_unavailable", detail="scripted fault")
        case "drop":
            raise ProviderError("provider_interrupted", detail="scripted fault")
        case "stall":
            await asyncio.Event().wait()
        case "exit":
            # As if the kernel had killed it: no clean-up, no farewell.
            os._exit(137)
        case "empty":
            pass


def _params(call: Call) -> ScriptedParams:
    try:
        return ScriptedParams.model_validate(call.params)
    except ValidationError:
        raise ProviderError("provider_rejected", "These `params` are not those of the scripted provider.") from None


def _words(message: Message) -> int:
    return len(message.content.split()) if isinstance(message.content, str) else 0
