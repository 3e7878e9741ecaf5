"""`python -m tests.fuzz`: random inputs to every target in turn; a failure names the seed that makes it again."""

import argparse
import sys
import time
from random import Random

from tests.fuzz.targets import TARGETS


def run(inputs: int, seed: int, only: str = "") -> int:
    """So many inputs, spread over the targets; how many were given. AssertionError naming the target and its seed."""
    chosen = {name: target for name, target in TARGETS.items() if only in ("", name)}
    for place in range(inputs):
        name = list(chosen)[place % len(chosen)]
        try:
            chosen[name](Random(f"{seed}/{place}"))
        except Exception as error:
            raise AssertionError(f"{name} broke on input {place} of seed {seed}") from error
    return inputs


def main() -> None:
    """Run it, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=list(TARGETS), default="")
    asked = parser.parse_args()
    started_s = time.monotonic()
    given = run(asked.inputs, asked.seed, asked.only)
    took_s = time.monotonic() - started_s
    sys.stdout.write(f"{given} inputs to {len(TARGETS)} targets in {took_s:.0f} s, seed {asked.seed}: nothing broke\n")


if __name__ == "__main__":
    main()
