"""Fixtures of unit tests: a node that breaks on purpose, a client that waits for nothing, a provider on loopback."""

from collections.abc import AsyncIterator

import pytest
from tailrace_client import (
    AsyncTailrace,
)

from tests.support.client_kit import Waits
from tests.support.fake_node import (
    FakeNode,
)


@pytest.fixture
async def node() -> AsyncIterator[FakeNode]:
    async with FakeNode() as running:
        yield running


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
async def tailrace(node: FakeNode, waits: Waits) -> AsyncIterator[AsyncTailrace]:
    async with AsyncTailrace(node.url, "k", patience=waits.patience()) as client:
        yield client
