"""`python -m chaos --rounds 200 --seed 7`: run the plan of a seed against real processes; exit 1 if anything was wrong.

The same seed makes the same plan; what of it meets what is up to the machine. `--lease-s 6` is the service's default,
for the figures; the shorter one here gets more done in a minute.
"""

import argparse
import asyncio
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from chaos.bites import bites
from chaos.clocks import find_libfaketime
from chaos.findings import Findings
from chaos.fleet import Fleet
from chaos.measure import Reruns
from chaos.plan import FAULTS
from chaos.provider import NumberedProvider
from chaos.run import Outcome, run
from chaos.table import table


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="faults, one after the other")
    parser.add_argument("--seed", type=int, default=None, help="of the plan; default: a new one")
    parser.add_argument("--lease-s", type=float, default=2.0, help="the workers' lease; the service's default is 6")
    parser.add_argument("--only", default="", help="draw from these faults alone: worker_kill,store_kill,...")
    parser.add_argument("--no-clocks", action="store_true", help="leave the clocks alone")
    parser.add_argument("--verbose", action="store_true", help="a line for each fault")
    parser.add_argument("--keep", action="store_true", help="keep the folder also where nothing was wrong")
    asked = parser.parse_args()
    only = frozenset(filter(None, asked.only.split(",")))
    if only - FAULTS.keys():
        parser.error(f"faults are {', '.join(FAULTS)}")
    seed = random.randrange(10**6) if asked.seed is None else asked.seed
    again = f" --only {asked.only}" if only else ""
    print(f"seed {seed}, {asked.rounds} rounds, lease {asked.lease_s} s", flush=True)
    # A connection that a reader resets while it is written to is what this program is about.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    good = False
    guard = subprocess.Popen([sys.executable, "-m", "chaos.guard", str(folder)], stdin=subprocess.PIPE)
    try:
        library = None if asked.no_clocks else find_libfaketime()
        findings, reruns = Findings(folder), Reruns(asked.lease_s)
        outcome = Outcome(seed, asked.rounds, only, library is not None, asked.verbose, findings, reruns)
        good = _run(outcome, asked.lease_s, folder, library)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped")
    finally:
        guard.communicate()
        if good and not asked.keep:
            shutil.rmtree(folder)
        else:
            print(f"evidence: {folder}")
            print(f"repeat:   python -m chaos --rounds {asked.rounds} --seed {seed} --lease-s {asked.lease_s}{again}")
    return 0 if good else 1


def _run(outcome: Outcome, lease_s: float, folder: Path, library: Path | None) -> bool:
    provider = NumberedProvider()

    async def all_of_it(outcome: Outcome) -> None:
        me = asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, me.cancel if me else int)
        async with provider:
            with Fleet(folder, lease_s, provider.environment, library) as fleet:
                await run(fleet, provider, outcome)

    asyncio.run(all_of_it(outcome))
    print(table(outcome))
    return not outcome.findings.lines and all(bite.enough for bite in bites(outcome))


if __name__ == "__main__":
    os.environ.pop("LD_PRELOAD", None)
    sys.exit(main())
