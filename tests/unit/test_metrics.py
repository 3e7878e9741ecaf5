"""The metrics: named alike, few, explained, and never about one job or one tenant."""

import re
import socket
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry

from cli.up import Plan, Up
from shared import metrics
from shared.errors import TailraceError
from shared.settings import Settings
from tests.support.cluster import free_port

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
LABELS = {"act", "code", "decision", "how", "le", "limit", "method", "model", "outcome", "provider", "route", "start",
          "status", "verdict", "version"}  # fmt: skip


def _ours(registry: CollectorRegistry) -> dict[str, str]:
    """Name as Prometheus shows it → type."""
    suffix = {"counter": "_total", "info": "_info"}
    return {
        found.name + suffix.get(found.type, ""): found.type
        for found in registry.collect()
        if not found.name.startswith("process_")
    }


@pytest.mark.parametrize("registry", [metrics.API, metrics.WORKER], ids=["api", "worker"])
def test_names_begin_alike_and_end_in_their_unit(registry: CollectorRegistry) -> None:
    for name, kind in _ours(registry).items():
        assert name.startswith("tailrace_")
        assert name.endswith("_seconds") or kind != "histogram"


@pytest.mark.parametrize("registry", [metrics.API, metrics.WORKER], ids=["api", "worker"])
def test_no_label_is_a_jobs_or_a_tenants(registry: CollectorRegistry) -> None:
    for family in registry._names_to_collectors.values():
        assert set(getattr(family, "_labelnames", ())) <= LABELS


def test_an_api_node_shows_nothing_that_a_client_has_named() -> None:
    assert all(
        "model" not in getattr(family, "_labelnames", ()) for family in metrics.API._names_to_collectors.values()
    )


def test_the_page_explains_every_metric_and_no_other() -> None:
    explained = set(re.findall(r"^\| `(tailrace_\w+)` ", PAGE.read_text(), re.MULTILINE))
    assert explained == {*_ours(metrics.API), *_ours(metrics.WORKER)}


def test_however_many_models_clients_name_there_are_few_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_models", set())
    labels = [metrics.model_label("openai", f"model-{number}") for number in range(1000)]
    assert labels[: metrics.MOST_MODELS] == [f"model-{number}" for number in range(metrics.MOST_MODELS)]
    assert set(labels[metrics.MOST_MODELS :]) == {metrics.OTHER}
    assert metrics.model_label("openai", "model-3") == "model-3"


def test_a_worker_shows_its_metrics_on_its_own_port_and_gives_the_port_back() -> None:
    port = free_port()
    for _ in range(2):
        with metrics.served("127.0.0.1", port), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            text = answer.read().decode()
            assert answer.headers["Content-Type"].startswith("text/plain")
    assert "\ntailrace_slots " in text
    assert "\nprocess_resident_memory_bytes " in text
    assert "tailrace_readers" not in text


async def test_the_workers_of_one_machine_take_ports_side_by_side() -> None:
    for port, taken in ((9100, ["9100", "9101"]), (0, [None, None])):
        up = Up(Plan(Settings(worker_metrics_port=port), api=1, workers=2, redis_url=""))
        assert [up._of_worker(number, {}).get("TAILRACE_WORKER_METRICS_PORT") for number in (0, 1)] == taken


def test_without_a_port_nothing_listens() -> None:
    with metrics.served("not an address", 0):
        pass


def test_a_port_that_is_taken_is_named_with_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        named = rf"127\.0\.0\.1:{port}.*TAILRACE_WORKER_METRICS_PORT"
        with pytest.raises(TailraceError, match=named), metrics.served("127.0.0.1", port):
            pass
