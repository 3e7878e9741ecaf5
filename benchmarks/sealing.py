"""What sealing costs: CPU a token in the process that writes, reads or rewrites a log, and bytes, in clear and sealed.

`python -m benchmarks.sealing`. No store and no network: the same calls that the storage layer makes, best of many.
"""

import os
import random
import time
from collections.abc import Callable

from shared.events import Token
from shared.jobs import JobKey
from shared.ring import RingKey
from shared.storage.keys import job_keys
from shared.storage.log import all_entries
from shared.storage.merged import RawEntries, merge
from shared.storage.sealed import PLAIN, SealedValues, Values
from shared.vault import Vault

_ROUNDS = 9
_WORDS = "the quick water runs on past mill and weir, down to where reeds grow, and it will not come back up".split()  # noqa: SIM905
_KEYS = job_keys(JobKey("acme", "0" * 26))


def _us(work: Callable[[], object], tokens: int) -> float:
    """CPU µs a token, the best round."""
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best / tokens * 1e6


def figures(values: Values) -> dict[str, float]:
    """By what is done."""
    chance = random.Random(7)
    answer = [Token(f" {chance.choice(_WORDS)}") for _ in range(512)]
    pairs = values.events(_KEYS, 7, 3, answer)
    log: RawEntries = [(f"7-{3 + at}", pairs[2 * at : 2 * at + 2]) for at in range(len(answer))]
    rows = values.rows(_KEYS, merge(values.opened(_KEYS, log)))
    compact: RawEntries = [(row.id, [row.field, row.value]) for row in rows]
    return {
        "write_us": _us(lambda: [values.events(_KEYS, 7, 3, answer[:1]) for _ in range(5000)], 5000),
        "write_batch_us": _us(lambda: [values.events(_KEYS, 7, 3, answer) for _ in range(10)], 5120),
        "read_us": _us(lambda: [all_entries(values.opened(_KEYS, log)) for _ in range(10)], 5120),
        "rewrite_us": _us(lambda: [values.rows(_KEYS, merge(values.opened(_KEYS, log))) for _ in range(10)], 5120),
        "read_compact_us": _us(lambda: [all_entries(values.opened(_KEYS, compact)) for _ in range(10)], 5120),
        "log_bytes": sum(map(len, pairs)) / len(answer),
        "compact_bytes": sum(len(row.value) for row in rows) / len(answer),
    }


if __name__ == "__main__":
    clear = figures(PLAIN)
    sealed = figures(SealedValues(Vault([RingKey("k1", os.urandom(32))])))
    print(f"{'a token':16} {'clear':>8} {'sealed':>8}")
    for name, figure in clear.items():
        print(f"{name:16} {figure:8.2f} {sealed[name]:8.2f}")
