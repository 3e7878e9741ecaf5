"""Gives inputs to targets, in one process or several; a failure names the seed or the file that makes it again."""

import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from random import Random

from tests.fuzz.targets import TARGETS

CHUNK = 5_000
_SLOWEST_PER_S = 300
"""Of one process that is led by coverage; fewer, and something hangs."""


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


def run_guided(inputs: int, seed: int, processes: int) -> int:
    """So many inputs led by coverage; how many were given, 0 where something broke, which is on stderr then.

    subprocess.TimeoutExpired where it hangs.
    """
    each = -(-inputs // processes)
    command = [sys.executable, "-W", "error", "-m", "tests.fuzz.guided", f"-runs={each}", "-max_len=1024"]
    running = [
        subprocess.Popen([*command, f"-seed={seed + number}"], stderr=subprocess.PIPE, text=True)
        for number in range(processes)
    ]
    telling = [threading.Thread(target=_tell, args=(process,)) for process in running]
    try:
        for thread in telling:
            thread.start()
        statuses = [process.wait(60 + each / _SLOWEST_PER_S) for process in running]
    finally:
        for process in running:
            process.kill()
        for thread in telling:
            thread.join()
    return each * processes if not any(statuses) else 0


def _tell(process: "subprocess.Popen[str]") -> None:
    """How far it is, and all that it says once something broke."""
    broke = False
    assert process.stderr is not None
    with process.stderr as said:
        for line in said:
            broke = broke or line.startswith((" ===", "=="))
            if broke or "pulse" in line or "DONE" in line:
                sys.stderr.write(line)
