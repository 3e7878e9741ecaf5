"""Ending tasks for certain."""

import asyncio
from typing import Any

_AGAIN_S = 0.2


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks until they are done.

    One cancellation is not enough wherever a library waits inside `asyncio.wait_for`, as arq does: before Python 3.12
    that loses one which comes in the moment the wait is done, and a loop that lost it runs on for ever.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_AGAIN_S)
