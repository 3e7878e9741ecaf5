"""An API node as shipped, with a probe in its loop: how late the loop is, and how many tasks it has.

`python -m chaos.drills._probe api --port …` runs what `tailrace api --port …` runs. The probe answers on the unix
socket that DRILL_PROBE names: JSON of the tasks, and of the lateness in ms of each look since it was last asked.
"""

import asyncio
import json
import os
import socket

import uvicorn
from fastapi import FastAPI

import api.server
from chaos.drills._meter import PROBE
from cli.main import app as command_line

_LOOK_S = 0.005
_LOOKS_KEPT = 100_000

_serve = api.server._serve  # noqa: SLF001 - the one place where a running loop can be joined


class _Probe:
    def __init__(self) -> None:
        self._late_ms: list[float] = []

    async def look(self) -> None:
        """Measure the loop until cancelled."""
        now = asyncio.get_running_loop().time
        while True:
            due = now() + _LOOK_S
            await asyncio.sleep(_LOOK_S)
            if len(self._late_ms) < _LOOKS_KEPT:
                self._late_ms.append(max(0.0, (now() - due) * 1000))

    async def answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Say how it stands."""
        said, self._late_ms = self._late_ms, []
        writer.write(json.dumps({"tasks": len(asyncio.all_tasks()), "late_ms": said}).encode())
        await writer.drain()
        writer.close()


async def _probed(server: uvicorn.Server, app: FastAPI, sock: socket.socket) -> None:
    probe = _Probe()
    looking = asyncio.create_task(probe.look())
    listening = await asyncio.start_unix_server(probe.answer, os.environ[PROBE])
    try:
        await _serve(server, app, sock)  # type: ignore[arg-type]  # its own subclass of the server
    finally:
        listening.close()
        looking.cancel()


if __name__ == "__main__":
    api.server._serve = _probed  # noqa: SLF001
    command_line()
