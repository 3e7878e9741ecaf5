"""The browser fixtures: Debian's Chromium on a running node, and a witness of everything the page does amiss.

Everything here lives no longer than this package: while the driver's synchronous interface is open, its event loop
counts as running, and no other test of the process could run its own.
"""

import importlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.browser.console import Console
from tests.browser.relay import Relay, relay_to

_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_PATIENCE_MS = 60_000


@pytest.fixture(scope="package")
def chromium() -> str:
    """The path to Chromium. Where it is absent, its tests stand aside, unless they are demanded."""
    path = shutil.which("chromium")
    if path is None:
        demanded = "chromium" in os.environ.get("TAILRACE_TEST_REQUIRE", "").split(",")
        (pytest.fail if demanded else pytest.skip)("Debian's chromium is not installed")
    return path


@pytest.fixture(scope="package")
def node_url(chromium: str) -> Iterator[str]:
    """A node with one worker; TAILRACE_TEST_NODE names one that runs already."""
    if given := os.environ.get("TAILRACE_TEST_NODE"):
        yield given.rstrip("/")
        return
    support = importlib.import_module("tests.support.cluster")
    with support.running_cluster(api=1, workers=1) as cluster:
        yield cluster.url.rstrip("/")


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    """One Chromium for all tests; each has a context of its own."""
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=_ARGS)
        yield browser
        browser.close()


@dataclass
class Witness:
    """Hears the page's console and sees its requests. `allowed`: errors that the test provokes."""

    node_url: str
    allowed: str = r"(?!)"
    faults: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Listen to this page from now on."""
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.faults.append(f"uncaught: {error}"))
        page.on("request", self._see)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.faults.append(message.text)

    def _see(self, request: Request) -> None:
        if not request.url.startswith((f"{self.node_url}/", "data:")):
            self.faults.append(f"a request to a stranger: {request.url}")

    def verdict(self) -> list[str]:
        """What was amiss."""
        return [fault for fault in self.faults if not re.search(self.allowed, fault)]


@pytest.fixture
def witness(node_url: str) -> Witness:
    """The witness of this test's page."""
    return Witness(node_url)


@pytest.fixture
def console(browser: Browser, witness: Witness) -> Iterator[Console]:
    """A console in a fresh tab. No test passes whose page logged an error, broke its policy, or called a stranger."""
    context = browser.new_context(viewport={"width": 1280, "height": 960}, color_scheme="light", locale="en-GB")
    context.set_default_timeout(_PATIENCE_MS)
    page = context.new_page()
    witness.watch(page)
    yield Console(page, witness.node_url)
    context.close()
    assert witness.verdict() == []


@pytest.fixture
def relay(node_url: str, console: Console, witness: Witness) -> Iterator[Relay]:
    """A wire that can be cut; the console stands behind it."""
    with relay_to(node_url) as relay:
        console.url = witness.node_url = relay.url
        yield relay
        console.page.close()
