"""docker-compose.yml run without an engine: the commands that it names as processes, each at an address of its own."""

import contextlib
import os
import random
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from cli.valkey import EmbeddedValkey
from tests.support.cluster import Process
from tests.support.compose import Service, services
from tests.support.dns import DockerDns, running_dns
from tests.support.nginx import Nginx, Place
from tests.support.stores import ValkeyProcess


class Network:
    """Addresses for containers, out of a part of 127.0.0.0/8 that is most likely nobody else's."""

    def __init__(self) -> None:
        self._prefix = f"127.{random.randint(64, 126)}.{random.randint(0, 255)}"
        self._next = 0

    def address(self) -> str:
        """A fresh one."""
        self._next += 1
        return f"{self._prefix}.{self._next}"


class ValkeyContainer(ValkeyProcess):
    """The embedded server, started with the command of the `valkey` service."""

    def __init__(self, service: Service, address: str, data_dir: Path) -> None:
        super().__init__(data_dir)
        binary, *options = service.command
        assert binary == "valkey-server"
        # What the image fixes: where the data lies. What a container has for itself: its address.
        ours = ["--dir", str(data_dir), "--bind", address, "--loglevel", "warning"]
        password = options[options.index("--requirepass") + 1]
        self.url = f"redis://:{password}@{address}:6379/0"
        self._embedded = EmbeddedValkey([self._embedded.argv[0], *options, *ours], self.url)


class Stack:
    """The whole of docker-compose.yml. `env` is what stands in `.env`."""

    def __init__(self, folder: Path, dns: DockerDns, network: Network, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.services = services(env)
        self.api: dict[str, Process] = {}
        """The API nodes by their addresses."""
        self.workers: list[Process] = []
        self._dns = dns
        self._network = network
        self._addresses = {"valkey": network.address(), "nginx": network.address()}
        self.valkey = ValkeyContainer(self.services["valkey"], self._addresses["valkey"], folder / "valkey")
        place = Place(self._addresses["nginx"], dns.endpoint, folder)
        self.nginx = Nginx(self.services["nginx"].command, place)

    @property
    def url(self) -> str:
        """The way in."""
        return self.nginx.url

    def add_api(self) -> str:
        """One more API node, found by its name as Docker's DNS would have it; its address."""
        address = self._network.address()
        process = self._process(f"api-{address}", "api", address)
        self.api[address] = process.start()
        self.publish()
        return address

    def remove_api(self, address: str) -> None:
        """One API node less."""
        self.kill(address)
        del self.api[address]

    def add_worker(self) -> None:
        """One more worker."""
        self.workers.append(self._process(f"worker-{len(self.workers) + 1}", "worker", self._network.address()).start())

    def kill(self, address: str) -> None:
        """kill -9 an API node; its name goes with it, as a container's does."""
        self.api[address].kill()
        self.publish()

    def start(self, address: str) -> None:
        """Start an API node that ended, at its old address."""
        self.api[address].start()
        self.publish()

    def publish(self) -> None:
        """Tell the name server which API nodes there are."""
        self._dns.table["api"] = [address for address, process in self.api.items() if process.alive]

    def stop(self) -> None:
        """End everything."""
        self.nginx.stop()
        for process in (*self.api.values(), *self.workers):
            process.stop()
        self.valkey.stop()

    def _process(self, name: str, service: str, address: str) -> Process:
        """A `tailrace …` command in the environment of its container, and in nothing else."""
        binary, *words = self.services[service].command
        assert binary == "tailrace"
        command = [address if word == "0.0.0.0" else word for word in words]
        env = {variable: self._reachable(value) for variable, value in self.services[service].environment.items()}
        return Process(name, command, {"PATH": os.environ["PATH"], **env}, self.folder / f"{name}.log")

    def _reachable(self, value: str) -> str:
        """A value whose URL names a service, with that container's address instead."""
        return re.sub(r"(?<=@)(valkey|nginx)(?=:\d)", lambda match: self._addresses[match[1]], value)


@contextlib.contextmanager
def running_stack(env: Mapping[str, str], api: int = 1, workers: int = 1) -> Iterator[Stack]:
    """All services for the length of a block: `docker compose up --scale api=… --scale worker=…`."""
    network = Network()
    with (
        tempfile.TemporaryDirectory(prefix="tailrace-compose-") as folder,
        running_dns(network.address()) as dns,
        contextlib.ExitStack() as exits,
    ):
        stack = Stack(Path(folder), dns, network, env)
        exits.callback(stack.stop)
        stack.valkey.start()
        for _ in range(api):
            stack.add_api()
        for _ in range(workers):
            stack.add_worker()
        stack.nginx.start()
        yield stack
