"""The decision after a provider's failure: again in silence, afresh in the open, or the end; and how long to wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import CODES, ProviderError
from shared.jobs import MAX_ATTEMPTS, OnInterrupt
from shared.settings import Settings
from worker.retry import Afresh, Again, GiveUp, backoff_s, decide

SETTINGS = Settings(provider_tries=3, retry_base_s=0.5, retry_cap_s=20.0)
CODES_OF_PROVIDERS = [code for code in CODES if code.startswith("provider_") or code == "empty_output"]


def _decide(
    error: ProviderError | None = None,
    *,
    shown: bool = False,
    tries: int = 1,
    attempt: int = 1,
    on_interrupt: OnInterrupt = OnInterrupt.RESTART,
) -> Again | Afresh | GiveUp:
    return decide(
        error or ProviderError("provider_unavailable"),
        shown=shown,
        tries=tries,
        attempt=attempt,
        on_interrupt=on_interrupt,
        settings=SETTINGS,
    )


@pytest.mark.parametrize("code", CODES_OF_PROVIDERS)
@pytest.mark.parametrize("shown", [False, True])
def test_what_cannot_end_better_is_not_tried_again(code: str, shown: bool) -> None:
    decision = _decide(ProviderError(code), shown=shown)
    assert isinstance(decision, GiveUp) is not CODES[code].retryable


@pytest.mark.parametrize(("shown", "tries", "attempt", "on_interrupt", "expected"), [
    # Nothing was shown: in silence, as often as the setting says, whatever the job wants of interruptions.
    (False, 1, 1, OnInterrupt.RESTART, Again),
    (False, 2, 1, OnInterrupt.FAIL, Again),
    (False, 2, MAX_ATTEMPTS, OnInterrupt.RESTART, Again),
    (False, 3, 1, OnInterrupt.RESTART, GiveUp),
    (False, 4, 1, OnInterrupt.CONTINUE, GiveUp),
    # Readers have seen something: a new attempt, if the job wants one and may have one.
    (True, 1, 1, OnInterrupt.RESTART, Afresh),
    (True, 3, 4, OnInterrupt.CONTINUE, Afresh),
    (True, 1, 1, OnInterrupt.FAIL, GiveUp),
    (True, 1, MAX_ATTEMPTS, OnInterrupt.RESTART, GiveUp),
    (True, 1, MAX_ATTEMPTS, OnInterrupt.CONTINUE, GiveUp),
])  # fmt: skip
def test_the_table_of_decisions(
    shown: bool, tries: int, attempt: int, on_interrupt: OnInterrupt, expected: type[object]
) -> None:
    assert type(_decide(shown=shown, tries=tries, attempt=attempt, on_interrupt=on_interrupt)) is expected


@given(st.floats(0, 20), st.booleans())
def test_the_provider_is_never_asked_before_the_time_it_named(retry_after_s: float, shown: bool) -> None:
    decision = _decide(ProviderError("provider_rate_limited", retry_after_s=retry_after_s), shown=shown)
    assert isinstance(decision, Again | Afresh)
    assert retry_after_s <= decision.delay_s <= retry_after_s + SETTINGS.retry_base_s


@given(st.floats(20, 10**6, exclude_min=True), st.booleans())
def test_a_provider_that_wants_longer_than_the_cap_is_not_waited_for(retry_after_s: float, shown: bool) -> None:
    error = ProviderError("provider_rate_limited", retry_after_s=retry_after_s)
    assert isinstance(_decide(error, shown=shown), GiveUp)


@given(st.integers(1, 12))
def test_the_wait_is_a_chance_part_of_a_span_that_doubles_up_to_the_cap(tries: int) -> None:
    assert 0 <= backoff_s(tries, SETTINGS) <= min(20.0, 0.5 * 2 ** (tries - 1))


def test_the_whole_span_is_used_so_that_workers_do_not_come_back_together() -> None:
    waits = [backoff_s(4, SETTINGS) for _ in range(400)]
    assert min(waits) < 1
    assert max(waits) > 3


@given(st.integers(1, MAX_ATTEMPTS - 1), st.integers(1, 3))
def test_a_new_attempts_wait_grows_with_the_attempts_and_not_with_the_calls(attempt: int, tries: int) -> None:
    decision = _decide(shown=True, tries=tries, attempt=attempt)
    assert isinstance(decision, Afresh)
    assert decision.delay_s <= 0.5 * 2 ** (attempt - 1)


@pytest.mark.parametrize(("shown", "tries", "attempt", "expected"), [
    (False, 2, 1, Again),
    (False, 3, 1, GiveUp),
    (True, 2, MAX_ATTEMPTS, Again),
    (True, 3, 1, Afresh),
    (True, 3, MAX_ATTEMPTS, GiveUp),
])  # fmt: skip
@pytest.mark.parametrize("on_interrupt", list(OnInterrupt))
def test_what_the_provider_keeps_is_read_on_whatever_the_job_says_of_interruptions(
    shown: bool, tries: int, attempt: int, on_interrupt: OnInterrupt, expected: type[object]
) -> None:
    decision = decide(
        ProviderError("provider_interrupted"),
        shown=shown,
        tries=tries,
        attempt=attempt,
        on_interrupt=on_interrupt,
        settings=SETTINGS,
        attached=True,
    )
    assert type(decision) is expected
