"""What each baseline needs, set up under `.bench/`: `python -m benchmarks.baselines.install [name …]`.

npm packages and a virtual environment, both from checked-in locks; nchan alone is a package of Debian and needs root.
A second run does nothing. Exit status 1, with a sentence that says what to do, where one cannot be had here.
"""

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
BENCH = HERE.parents[1] / ".bench"
NODE = BENCH / "node"
VENV = BENCH / "fastapi-resumable"
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

_STEP_S = 600.0
"""The longest that a step may take: a registry that hangs ends the installation, not the benchmark."""
_LOCK = HERE / "requirements-fastapi-resumable.lock"


class InstallError(RuntimeError):
    """It cannot be had on this machine; the message says what to do."""


def installed(name: str) -> bool:
    """Whether all that a baseline needs is there, in the versions of the locks."""
    return {
        "direct": lambda: importlib.util.find_spec("openai") is not None,
        "naive": lambda: importlib.util.find_spec("arq") is not None,
        "resumable": lambda: _stamped(NODE, HERE / "package-lock.json"),
        "fastapi-resumable": lambda: _stamped(VENV, _LOCK),
        "nchan": lambda: NCHAN_MODULE.exists() and _nginx() is not None,
    }[name]()


def install(name: str) -> None:
    """Set up a baseline, unless it is. InstallError where that fails."""
    if not installed(name):
        _INSTALLERS[name]()


def _with_tailrace() -> None:
    raise InstallError("It runs in Tailrace's own environment: `make setup`.")


def _resumable() -> None:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise InstallError("It needs Node.js 20 or newer with npm (Debian: apt-get install nodejs npm).")
    NODE.mkdir(parents=True, exist_ok=True)
    for file in ("package.json", "package-lock.json"):
        shutil.copyfile(HERE / file, NODE / file)
    _run([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"], NODE)
    _stamp(NODE, HERE / "package-lock.json")


def _fastapi_resumable() -> None:
    _run([sys.executable, "-m", "venv", "--clear", str(VENV)], HERE)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--require-hashes", "-r", str(_LOCK)], HERE)
    _stamp(VENV, _LOCK)


def _nchan() -> None:
    if shutil.which("apt-get") is None:
        raise InstallError("nchan is taken from Debian's packages, and this is no Debian.")
    packages = ["libnginx-mod-nchan", *([] if _nginx() else ["nginx"])]
    if os.geteuid() != 0:
        raise InstallError(f"Debian's packages need root: apt-get install --no-install-recommends {' '.join(packages)}")
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=60"]
    _run([*apt, "update"], HERE)
    _run([*apt, "install", "-y", "--no-install-recommends", *packages], HERE)
    if not installed("nchan"):
        raise InstallError(f"Debian's packages are installed, but {NCHAN_MODULE} is not there.")


_INSTALLERS: dict[str, Callable[[], None]] = {
    "direct": _with_tailrace,
    "naive": _with_tailrace,
    "resumable": _resumable,
    "fastapi-resumable": _fastapi_resumable,
    "nchan": _nchan,
}


def _run(command: list[str], folder: Path) -> None:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=_STEP_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"`{' '.join(command)}`: {error}") from error
    if done.returncode != 0:
        raise InstallError(f"`{' '.join(command)}` failed:\n{(done.stderr or done.stdout)[-2000:]}")


def _nginx() -> str | None:
    """nginx, which Debian puts where a user's PATH may not look."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def _stamp(folder: Path, lock: Path) -> None:
    """Written last: an installation that broke off has none."""
    (folder / ".installed").write_text(_digest(lock))


def _stamped(folder: Path, lock: Path) -> bool:
    stamp = folder / ".installed"
    return stamp.exists() and stamp.read_text() == _digest(lock)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"{', '.join(_INSTALLERS)} (default: all)")
    names = parser.parse_args().names or list(_INSTALLERS)
    if unknown := sorted(set(names) - set(_INSTALLERS)):
        parser.error(f"no baseline of the name {', '.join(unknown)}; there are {', '.join(_INSTALLERS)}")
    failed = False
    for name in names:
        try:
            install(name)
            print(f"{name}: ready")
        except InstallError as error:
            failed = True
            print(f"{name}: not installed. {error}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
