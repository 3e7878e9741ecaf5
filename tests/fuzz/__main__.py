"""`python -m tests.fuzz`: random inputs to every target in turn; by as many processes as there are cores."""

import argparse
import os
import sys
import time

from tests.fuzz.running import run_all
from tests.fuzz.targets import TARGETS


def main() -> None:
    """Run it, and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("; ")[0])
    parser.add_argument("--inputs", type=int, default=1_100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=list(TARGETS), default="")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    started_s = time.monotonic()
    given = run_all(asked.inputs, asked.seed, asked.only, asked.processes)
    took_s = time.monotonic() - started_s
    targets = asked.only or f"{len(TARGETS)} targets"
    sys.stdout.write(f"{given:,} inputs to {targets} in {took_s:.0f} s, seed {asked.seed}: nothing broke\n")


if __name__ == "__main__":
    main()
