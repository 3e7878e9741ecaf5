"""The shipped gateway as a process: Debian's nginx on deploy/'s own files, with nothing but addresses swapped."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.cluster import GUARD_S, until

DEPLOY = Path(__file__).parents[2] / "deploy"
PORT, TLS_PORT = 8080, 8443
_CONFIGURATION = "/etc/tailrace"
_CERTIFICATES = "/etc/tailrace-tls"
_PREFIX = "/tmp"


def program(name: str) -> str:
    """The path to nginx or to what goes with it. Where it is absent, tests stand aside, unless they are demanded."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        demanded = "nginx" in os.environ.get("TAILRACE_TEST_REQUIRE", "").split(",")
        (pytest.fail if demanded else pytest.skip)(f"Debian's {name} is not installed")
    return path


@dataclass(frozen=True)
class Place:
    """Where a gateway runs: its own address, the name server's (address:port), and a folder for all that it writes."""

    address: str
    resolver: str
    folder: Path


class Nginx:
    """A gateway run by `command`, which is docker-compose.yml's."""

    def __init__(self, command: list[str], place: Place) -> None:
        self.place = place
        self.binary = program("nginx")
        self.url = f"http://{place.address}:{PORT}"
        self.tls_url = f"https://{place.address}:{TLS_PORT}"
        self._etc, self._prefix, self._log = (place.folder / name for name in ("etc", "prefix", "nginx.log"))
        self._command = [self.binary, *(self._here(word) for word in command[1:])]
        if os.geteuid() == 0:
            # In a container master and workers are one user; root's workers would be `nobody`, who may write nowhere.
            self._command[-1] += " user root root;"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return once it answers."""
        shutil.copytree(DEPLOY, self._etc)
        self._prefix.mkdir()
        self._swap_addresses()
        if any(word.endswith("nginx-tls.conf") for word in self._command):
            _sign(self.certificate, self.place.address)
        # It ends with this process, even if that is killed.
        tied = [program("setpriv"), "--pdeathsig", "TERM", *self._command]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(tied, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self._answers)

    def stop(self) -> None:
        """End it at once, however it stands."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(GUARD_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(GUARD_S)

    @property
    def certificate(self) -> Path:
        """The certificate that its TLS variant shows, signed by itself."""
        return self.place.folder / "fullchain.pem"

    @property
    def version(self) -> tuple[int, ...]:
        """Such as (1, 22, 1)."""
        said = subprocess.run([self.binary, "-v"], capture_output=True, text=True, check=True).stderr
        found = re.search(r"nginx/([0-9.]+)", said)
        assert found, said
        return tuple(map(int, found[1].split(".")))

    @property
    def log(self) -> str:
        """Everything it has written: the access log and what went wrong."""
        return self._log.read_text(errors="replace")

    def requests(self, path: str) -> list[dict[str, Any]]:
        """The access log's entries for a path."""
        entries = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [entry for entry in entries if entry["path"] == path]

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"nginx ended at its start:\n{self.log}"
        try:
            return httpx2.get(f"{self.url}/gateway/healthz").status_code == 200
        except httpx2.RequestError:
            return False

    def _here(self, word: str) -> str:
        """A word of the command with the container's folders made ours."""
        return str(self._prefix) if word == _PREFIX else word.replace(_CONFIGURATION, str(self._etc))

    def _swap_addresses(self) -> None:
        """The only difference to what is shipped. Every swap must find what it replaces."""
        address, folder = self.place.address, self._etc / "nginx"
        _swap(folder / "nodes.conf", "resolver 127.0.0.11 ", f"resolver {self.place.resolver} ")
        _swap(folder / "listen.conf", f"listen {PORT} ", f"listen {address}:{PORT} ")
        tls = folder / "listen-tls.conf"
        _swap(tls, _CERTIFICATES, str(self.place.folder))
        if self.version < (1, 25, 1):  # as the file itself says
            _swap(tls, f"\nlisten {TLS_PORT} ssl sndbuf=64k;\nhttp2 on;", f"\nlisten {TLS_PORT} ssl http2 sndbuf=64k;")
        _swap(tls, f"\nlisten {TLS_PORT} ", f"\nlisten {address}:{TLS_PORT} ")


def _sign(certificate: Path, address: str) -> None:
    """Make a certificate for an address, and its key beside it."""
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=tailrace -addext"
    files = ["-keyout", str(certificate.with_name("privkey.pem")), "-out", str(certificate)]
    command = [program("openssl"), *make.split(), f"subjectAltName=IP:{address}", *files]
    subprocess.run(command, check=True, capture_output=True)


def _swap(path: Path, shipped: str, ours: str) -> None:
    text = path.read_text()
    assert shipped in text, f"{path.name} has no {shipped!r}"
    path.write_text(text.replace(shipped, ours))
