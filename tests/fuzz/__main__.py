"""`python -m tests.fuzz`: random inputs to every target in turn, then as many led by coverage where atheris is."""

import argparse
import importlib.util
import os
import sys
import time

from tests.fuzz.running import run_all, run_guided
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Run it, and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("--inputs", type=int, default=1_100_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=list(TARGETS), default="", help="one target, by chance alone")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    started_s = time.monotonic()
    given = run_all(asked.inputs, asked.seed, asked.only, asked.processes)
    targets = asked.only or f"{len(TARGETS)} targets"
    _say(f"{given:,} inputs to {targets} by chance, seed {asked.seed}: nothing broke", started_s)
    if asked.only:
        return 0
    if importlib.util.find_spec("atheris") is None:
        _say("There is no atheris here: nothing was led by coverage", started_s)
        return 0
    started_s = time.monotonic()
    given = run_guided(asked.inputs, asked.seed, asked.processes)
    if not given:
        return 1
    _say(f"{given:,} inputs led by coverage, seed {asked.seed}: nothing broke", started_s)
    return 0


def _say(what: str, since_s: float) -> None:
    sys.stdout.write(f"{what} ({time.monotonic() - since_s:.0f} s)\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
