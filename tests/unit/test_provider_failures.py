"""Exceptions are sorted by what they are, whoever raised them and however deep the cause lies."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest

from shared.errors import ProviderError
from worker.providers.failures import classify, retry_after


def _wrapped(cause: Exception) -> Exception:
    """As the SDKs do: an error of their own, with the transport's as its cause."""
    error: Exception = type("APIConnectionError", (Exception,), {})("Connection error.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("wrap", [lambda error: error, _wrapped], ids=["bare", "wrapped"])
@pytest.mark.parametrize(
    ("error", "before", "after"),
    [
        (httpx2.ConnectError("x"), "provider_unavailable", "provider_unavailable"),
        (httpx2.ConnectTimeout("x"), "provider_unavailable", "provider_unavailable"),
        (httpx2.PoolTimeout("x"), "provider_unavailable", "provider_unavailable"),
        (httpx2.ReadTimeout("x"), "provider_timeout", "provider_timeout"),
        (httpx2.ReadError("x"), "provider_unavailable", "provider_interrupted"),
        (httpx2.RemoteProtocolError("x"), "provider_unavailable", "provider_interrupted"),
        (ConnectionResetError(), "provider_unavailable", "provider_interrupted"),
        (TimeoutError(), "provider_timeout", "provider_timeout"),
        (httpx2.DecodingError("x"), "provider_protocol", "provider_protocol"),
        (httpx2.UnsupportedProtocol("x"), "provider_not_configured", "provider_not_configured"),
        (httpx2.LocalProtocolError("x"), "provider_not_configured", "provider_not_configured"),
    ],
    ids=repr,
)
def test_a_broken_connection_is_sorted_by_its_kind_and_moment(
    wrap: Callable[[Exception], Exception], error: Exception, before: str, after: str
) -> None:
    assert classify(wrap(error), started=False).code == before
    assert classify(wrap(error), started=True).code == after


@pytest.mark.parametrize(("started", "code"), [(False, "provider_rejected"), (True, "provider_protocol")])
def test_a_value_that_does_not_fit_is_the_requests_fault_before_and_the_answers_after(started: bool, code: str) -> None:
    assert classify(TypeError("x"), started=started).code == code


@pytest.mark.parametrize(
    "said",
    [
        "Sun, 06 Nov 99999999999999999999 08:49:37 GMT",
        "Sun, 06 Nov 2094 08:49:37 +99999999999999999999",
        "Sun, 99 Nov 2094 08:49:37 GMT",
        "1e999",
        "-inf",
        "",
    ],
)
def test_a_retry_after_that_means_nothing_breaks_nothing(said: str) -> None:
    assert retry_after({"retry-after": said}) is None


def test_a_retry_after_may_be_a_date() -> None:
    later = datetime.now(UTC) + timedelta(seconds=90)
    seconds = retry_after({"retry-after": format_datetime(later, usegmt=True)})
    assert seconds is not None
    assert 0 < seconds <= 90
    assert retry_after({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}) == 0


def test_an_error_of_ours_stays_what_it_is() -> None:
    error = ProviderError("provider_quota")
    assert classify(error, started=True) is error


def test_a_vendors_word_for_it_counts_more_than_the_status() -> None:
    error = type("APIStatusError", (Exception,), {"status_code": 200, "type": "overloaded_error"})("x")
    assert classify(error, started=True).code == "provider_unavailable"


def test_where_it_was_raised_is_kept_and_what_it_said_is_not() -> None:
    def chain(asked: str) -> None:
        raise RuntimeError(asked)

    with pytest.raises(RuntimeError) as caught:
        chain("my prompt")
    detail = classify(caught.value, started=True).detail
    assert detail.startswith("kind=RuntimeError at=test_provider_failures.py:")
    assert "prompt" not in detail
