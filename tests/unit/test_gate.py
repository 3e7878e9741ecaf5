"""What a call's end means: which codes speak of the provider, what is counted, what a job at an open circuit gets."""

import asyncio

import pytest

from shared import metrics
from shared.errors import CODES, ProviderError, TailraceError
from shared.settings import Settings
from worker.gate import CircuitOpenError, Gate

SETTINGS = Settings(circuit_failures=2, circuit_open_s=30, retry_budget_percent=10, retry_budget_floor=1)
OUTAGES = {"provider_unavailable", "provider_timeout", "provider_interrupted", "provider_protocol"}


def _gate(settings: Settings = SETTINGS) -> Gate:
    return Gate(settings, lambda: 1000.0, lambda: 1.0)


def _call(gate: Gate, error: BaseException | None = None, *, model: str = "m", provider: str = "openai") -> None:
    """One call that ends so. CircuitOpenError where it is not made."""
    call = gate.enter(provider, model, retry=False)
    call.__exit__(None if error is None else type(error), error, None)


@pytest.mark.parametrize("code", CODES)
def test_only_what_speaks_of_the_provider_opens_the_circuit(code: str) -> None:
    gate = _gate()
    for _ in range(2):
        _call(gate, ProviderError(code))
    if code in OUTAGES:
        with pytest.raises(CircuitOpenError):
            _call(gate)
    else:
        _call(gate)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), TailraceError("deadline_exceeded"), ValueError("ours")])
def test_what_ends_a_call_from_outside_opens_nothing(error: BaseException) -> None:
    gate = _gate()
    for _ in range(9):
        _call(gate, error)


def test_a_job_that_asks_for_faults_takes_nobody_elses_provider_away() -> None:
    gate = _gate()
    for _ in range(99):
        _call(gate, ProviderError("provider_unavailable"), provider="scripted")
        assert gate.grants("scripted", "m", waits=False)


def test_a_refused_call_says_that_the_circuit_is_open_and_when_it_is_probed() -> None:
    gate = _gate()
    for _ in range(2):
        _call(gate, ProviderError("provider_unavailable"))
    with pytest.raises(CircuitOpenError) as caught:
        gate.enter("openai", "m", retry=False)
    error = caught.value
    assert (error.code, error.retryable) == ("provider_unavailable", True)
    assert "circuit is open" in error.message
    assert "in 30 s" in error.message


def test_a_silent_retry_is_not_granted_at_an_open_circuit_and_costs_no_budget() -> None:
    gate = _gate()
    for _ in range(2):
        _call(gate, ProviderError("provider_unavailable"))
    assert not gate.grants("openai", "m", waits=False)
    assert gate.grants("openai", "m", waits=True)
    assert not gate.grants("openai", "m", waits=True)


def test_the_budget_is_the_providers_and_not_the_models() -> None:
    gate = _gate()
    assert gate.grants("openai", "one", waits=False)
    assert not gate.grants("openai", "two", waits=False)
    assert gate.grants("anthropic", "one", waits=False)


def test_retries_earn_no_retries() -> None:
    gate = _gate()
    for _ in range(100):
        gate.enter("openai", "m", retry=True)
    assert [gate.grants("openai", "m", waits=False) for _ in range(2)] == [True, False]
    for _ in range(20):
        gate.enter("openai", "m", retry=False)
    assert [gate.grants("openai", "m", waits=False) for _ in range(2)] == [True, False]


def _value(name: str, **labels: str) -> float:
    return metrics.WORKER.get_sample_value(name, labels) or 0.0


def test_calls_retries_and_circuits_are_counted() -> None:
    def seen() -> list[float]:
        return [
            _value("tailrace_provider_calls_total", provider="anthropic", outcome="provider_timeout"),
            _value("tailrace_provider_calls_total", provider="anthropic", outcome="ok"),
            _value("tailrace_provider_calls_total", provider="anthropic", outcome="stopped"),
            _value("tailrace_circuits_open", provider="anthropic", model="counted"),
            _value("tailrace_circuit_openings_total", provider="anthropic", model="counted"),
            _value("tailrace_circuit_refusals_total", provider="anthropic"),
            _value("tailrace_provider_retries_total", provider="anthropic", decision="granted"),
            _value("tailrace_provider_retries_total", provider="anthropic", decision="denied"),
        ]

    before = seen()
    now_s = [1000.0]
    gate = Gate(SETTINGS, lambda: now_s[0], lambda: 1.0)
    for error in (None, asyncio.CancelledError(), ProviderError("provider_timeout"), ProviderError("provider_timeout")):
        _call(gate, error, provider="anthropic", model="counted")
    with pytest.raises(CircuitOpenError):
        _call(gate, provider="anthropic", model="counted")
    for _ in range(2):
        gate.grants("anthropic", "other", waits=False)
    assert [after - was for was, after in zip(before, seen(), strict=True)] == [2, 1, 1, 1, 1, 1, 1, 1]
    now_s[0] += 30
    _call(gate, provider="anthropic", model="counted")
    assert [after - was for was, after in zip(before, seen(), strict=True)] == [2, 2, 1, 0, 1, 1, 1, 1]
