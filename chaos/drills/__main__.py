"""`python -m chaos.drills`: run drills by name, print each promise with its figures, and fail where one was missed."""

import argparse
import asyncio
import importlib
import pkgutil
import sys
import time

from chaos import drills
from chaos.drills.frame import Drill, Figure

GUARD_S = 2700.0
"""No drill runs for longer."""


def found() -> dict[str, Drill]:
    """All drills by name: every module of this package that has DRILLS."""
    every: dict[str, Drill] = {}
    for module in pkgutil.iter_modules(drills.__path__):
        if not module.name.startswith("_") and module.name != "frame":
            for drill in getattr(importlib.import_module(f"{drills.__name__}.{module.name}"), "DRILLS", ()):
                every[drill.name] = drill
    return dict(sorted(every.items(), key=lambda item: item[1].rows))


def main() -> int:
    """0 where every figure was reached, 1 where one was not, 2 for a name that is none."""
    every = found()
    parser = argparse.ArgumentParser(prog="python -m chaos.drills", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="drills to run; `list` shows them; none: all")
    parser.add_argument("--count", type=int, help="repetitions instead of the drill's own number")
    asked = parser.parse_args()
    if asked.names == ["list"]:
        for drill in every.values():
            say(f"{drill.name:24} row {', '.join(map(str, drill.rows)):8} {drill.promise}")
        return 0
    unknown = [name for name in asked.names if name not in every]
    if unknown:
        say(f"No drill is called {', '.join(unknown)}; `python -m chaos.drills list` shows what there is.")
        return 2
    chosen = [every[name] for name in asked.names] or list(every.values())
    results = [run(drill, asked.count or drill.count) for drill in chosen]
    return 0 if all(results) else 1


def run(drill: Drill, count: int) -> bool:
    """Run one drill; whether it reached its figures."""
    say(f"\n{drill.name} (row {', '.join(map(str, drill.rows))}, count {count}): {drill.promise}")
    began = time.monotonic()
    try:
        figures = list(asyncio.run(_bounded(drill, count)))
    except Exception as error:  # a drill that breaks has proved nothing; the others go on
        figures = [Figure("the drill itself", f"{type(error).__name__}: {error}"[:300], "runs", ok=False)]
    for figure in figures:
        mark = "ok    " if figure.ok else "MISSED"
        say(f"  {mark} {figure.name}: {figure.reached} (to reach: {figure.reach})")
    say(f"  took {time.monotonic() - began:.0f} s")
    return all(figure.ok for figure in figures)


async def _bounded(drill: Drill, count: int) -> list[Figure]:
    async with asyncio.timeout(GUARD_S):
        return list(await drill.run(count))


def say(line: str) -> None:
    """A line for whoever runs the drill."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
