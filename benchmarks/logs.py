"""Long logs, made once for all questions as a worker writes them for a provider with a pace, and read again."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from benchmarks.processes import Running
from benchmarks.tools import fake

if TYPE_CHECKING:
    from benchmarks.bench import Bench, Run

GAP_US = 150
"""Fast, and yet each token comes alone: a flood would be stored in larger pieces than a model's answer is."""
PATIENCE = 6.0
"""How much longer than the provider needs it may take until all can be read, as a factor; with ten seconds on top."""
LINGER_S = 0.02
"""For an answer to end by itself: with some systems a finished one is held open, and would be waited for each time."""
SETTLE_S = 2.0
"""For what a system does behind the end of an answer, as rewriting it."""


LONGEST = {"naive": 10_000}
"""What takes minutes to write 100,000 tokens, each by itself, is asked for fewer."""


def lengths_for(running: Running, lengths: Iterable[int]) -> list[int]:
    """Those of `lengths` that a system writes in reasonable time."""
    return [length for length in lengths if length <= LONGEST.get(running.name, length)]


class Logs:
    """Made when they are first wanted, and anew for a system that had to be started anew."""

    def __init__(self) -> None:
        self._made: dict[tuple[Running, int], str] = {}

    def of(self, running: Running, tokens: int) -> str:
        """The id of a log with so many tokens."""
        if (running, tokens) not in self._made:
            self._made[running, tokens] = _log(running, tokens)
            time.sleep(SETTLE_S)
        return self._made[running, tokens]


def _log(running: Running, tokens: int) -> str:
    """The id of a log that holds so many tokens. RuntimeError where it does not come about."""
    job = running.begin(fake(tokens, GAP_US))
    needed_s = tokens * GAP_US / 1e6
    until = time.monotonic() + 10 + PATIENCE * needed_s
    time.sleep(needed_s)  # unwatched: some systems write more slowly while somebody reads
    while not running.complete(job, tokens):
        if time.monotonic() > until:
            raise RuntimeError(f"{running.name}: {tokens} tokens were not there in time")
        time.sleep(0.1)
    return job


def read_again(
    bench: "Bench", running: Running, job: str, length: int, held: int, *, repeat: int = 0, readers: int = 0
) -> "Run":
    """Read a log of `length` tokens from the first `held` on: `repeat` times in turn, or by `readers` at once."""
    path, cursor = running.after(job, held) if held else (running.whole(job), None)
    options: dict[str, float | str] = {"url_path": path, "expect": length - held, "first_seq": held}
    options |= {"linger_s": LINGER_S}
    options |= {"repeat": repeat} if repeat else {"readers": readers}
    options |= {} if cursor is None else {"last_event_id": cursor}
    mode = "gets" if repeat else "storm"
    return bench.load(running, mode, running.route(""), tokens=length, timeout_s=60, **options)
