"""Child processes under supervision: started, watched, restarted when they crash, stopped in order."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shared.telemetry import READY_FD

_QUICK_DEATH_S = 5.0
_LONGEST_BACKOFF_S = 5.0
_PR_SET_PDEATHSIG = 1


class ChildFailedError(Exception):
    """A child did not become ready."""


@dataclass
class Child:
    """One supervised process. `inherit`: file descriptors that it gets."""

    name: str
    argv: Sequence[str]
    env: dict[str, str]
    stop_guard_s: float
    inherit: tuple[int, ...] = ()
    probe: Callable[[], bool] | None = None
    """How to see that it is ready, for one that cannot say so itself."""
    restarts: int = 0
    process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    async def start(self, guard_s: float) -> None:
        """Start it and wait until it is ready. ChildFailedError if it is not within `guard_s`."""
        read_fd, write_fd = os.pipe()
        try:
            self.process = await asyncio.create_subprocess_exec(
                *self.argv,
                env={**self.env, READY_FD: str(write_fd)},
                pass_fds=(write_fd, *self.inherit),
                stdin=asyncio.subprocess.DEVNULL,
                # A session of its own: Ctrl-C is for us alone, or the store would go before its clients.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        finally:
            os.close(write_fd)
        try:
            async with asyncio.timeout(guard_s):
                await (self._probed() if self.probe is not None else self._said_ready(read_fd))
        except TimeoutError:
            raise ChildFailedError(f"{self.name} was not ready within {guard_s:.0f} s") from None
        finally:
            os.close(read_fd)

    async def _said_ready(self, read_fd: int) -> None:
        loop = asyncio.get_running_loop()
        said: asyncio.Future[bytes] = loop.create_future()

        def heard() -> None:
            if not said.done():
                said.set_result(os.read(read_fd, 1))

        loop.add_reader(read_fd, heard)
        try:
            if not await said:
                raise ChildFailedError(f"{self.name} ended before it was ready")
        finally:
            loop.remove_reader(read_fd)

    async def _probed(self) -> None:
        assert self.probe is not None
        assert self.process is not None
        while not await asyncio.to_thread(self.probe):
            if self.process.returncode is not None:
                raise ChildFailedError(f"{self.name} ended with status {self.process.returncode}")
            await asyncio.sleep(0.02)

    async def watch(self, say: Callable[[str], None], guard_s: float) -> None:
        """Restart it whenever it ends, until cancelled."""
        loop = asyncio.get_running_loop()
        backoff_s = 0.1
        while True:
            assert self.process is not None
            began = loop.time()
            status = await self.process.wait()
            backoff_s = 0.1 if loop.time() - began > _QUICK_DEATH_S else min(backoff_s * 2, _LONGEST_BACKOFF_S)
            say(f"{self.name} (pid {self.process.pid}) {_how(status)}; starting it again")
            self.restarts += 1
            await asyncio.sleep(backoff_s)
            try:
                await self.start(guard_s)
                say(f"{self.name} is back (pid {self.process.pid})")
            except ChildFailedError as error:
                say(str(error))

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that is not gone in time."""
        if self.process is None or self.process.returncode is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.stop_guard_s):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


def _how(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _die_with_parent() -> None:
    """A supervisor that is killed takes its children with it (Linux); elsewhere they are left to the user."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
