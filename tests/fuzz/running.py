"""Gives random inputs to targets, in one process or several; a failure names the seed that makes it again."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from random import Random

from tests.fuzz.targets import TARGETS

CHUNK = 5_000


def run(inputs: range, seed: int, only: str = "") -> int:
    """These inputs, spread over the targets; how many were given. AssertionError naming the target and its seed."""
    chosen = [name for name in TARGETS if only in ("", name)]
    for place in inputs:
        name = chosen[place % len(chosen)]
        try:
            TARGETS[name](Random(f"{seed}/{place}"))
        except Exception as error:
            raise AssertionError(f"{name} broke on input {place} of seed {seed}") from error
    return len(inputs)


def run_all(inputs: int, seed: int, only: str, processes: int) -> int:
    """The same by several processes, telling on stderr how far it is. What broke ends it."""
    given = 0
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        chunks = [range(start, min(inputs, start + CHUNK)) for start in range(0, inputs, CHUNK)]
        running = [pool.submit(run, chunk, seed, only) for chunk in chunks]
        try:
            for done in as_completed(running):
                given += done.result()
                sys.stderr.write(f"\r{given:,} of {inputs:,}")
                sys.stderr.flush()
        finally:
            pool.shutdown(cancel_futures=True)
            sys.stderr.write("\n")
    return given
