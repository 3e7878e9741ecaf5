"""The model behind the real SDKs: an answer that is a pure function of the prompt and the number of the call."""

import random
import re
from collections import Counter
from dataclasses import replace

from tests.support.provider_behaviour import Behaviour, cut, turns
from tests.support.provider_http import Request
from tests.support.provider_server import ProviderServer

_WORDS = "river mill weir sluice über naïve côté 水車 река 🌊 👩‍🔬 e\u0301té “so” dark-green".split()  # noqa: SIM905
_NONCE = re.compile(r"nonce:(\S+)")
_TOKENS = re.compile(r"tokens:(\d+)")


def numbered(prompt: str, call: int) -> str:
    """What is said to a prompt `nonce:… tokens:…` at its call 1, 2, …: the call's number, then words of its own."""
    nonce, tokens = _NONCE.search(prompt), _TOKENS.search(prompt)
    assert nonce is not None, prompt
    assert tokens is not None, prompt
    chance = random.Random(f"{nonce[1]}/{call}")
    return f"[{call}] " + " ".join(chance.choice(_WORDS) for _ in range(int(tokens[1]))) + "."


class NumberedProvider(ProviderServer):
    """The local provider server, saying `numbered` texts. `calls`: how often each prompt was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def _asked(self, request: Request) -> Behaviour:
        how = super()._asked(request)
        prompt = turns(request.body)[0][1]
        self.calls[prompt] += 1
        self.requests.clear()  # a long run must not keep them all
        headers = (("retry-after", "1"),) if how.status == 429 else ()
        return replace(how, pieces=tuple(cut(numbered(prompt, self.calls[prompt]), how.cut)), headers=headers)
