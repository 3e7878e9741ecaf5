"""Jobs: the whole table of transitions, ids that sort by creation, and the record as the API shows it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.jobs import (
    TERMINAL,
    TRANSITIONS,
    Act,
    JobKey,
    JobRecord,
    JobRequest,
    Message,
    Status,
    is_job_id,
    job_id_prefix,
    new_job_id,
)

LEGAL = {
    (Status.QUEUED, Act.CLAIM): Status.RUNNING,
    (Status.QUEUED, Act.FAILED): Status.FAILED,
    (Status.QUEUED, Act.CANCELLED): Status.CANCELLED,
    (Status.RUNNING, Act.CLAIM): Status.RUNNING,
    (Status.RUNNING, Act.RELEASE): Status.QUEUED,
    (Status.RUNNING, Act.DONE): Status.DONE,
    (Status.RUNNING, Act.FAILED): Status.FAILED,
    (Status.RUNNING, Act.CANCELLED): Status.CANCELLED,
}
REQUEST = JobRequest("scripted", "demo", [Message("user", "hi")], metadata={"a": "b"})


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("act", Act)
def test_every_act_on_every_status_is_legal_or_not(status: Status, act: Act) -> None:
    assert TRANSITIONS[status].get(act) == LEGAL.get((status, act))


def test_a_job_that_has_ended_stays_as_it_is() -> None:
    assert frozenset({Status.DONE, Status.FAILED, Status.CANCELLED}) == TERMINAL
    assert all(not TRANSITIONS[status] for status in TERMINAL)


def test_every_open_job_can_be_ended() -> None:
    for status in set(Status) - TERMINAL:
        assert {TRANSITIONS[status][Act.FAILED], TRANSITIONS[status][Act.CANCELLED]} <= TERMINAL


@given(st.integers(0, 2**48 - 2), st.integers(0, 2**48 - 1))
def test_ids_sort_by_creation(one: int, other: int) -> None:
    assert (job_id_prefix(one) < job_id_prefix(other)) == (one < other)
    assert len(job_id_prefix(one)) == 10


def test_a_fresh_id_is_an_id_and_no_other_has_it() -> None:
    ids = [new_job_id() for _ in range(500)]
    assert all(is_job_id(job_id) for job_id in ids)
    assert len(set(ids)) == len(ids)
    assert [job_id[:10] for job_id in ids] == sorted(job_id[:10] for job_id in ids)


@pytest.mark.parametrize("text", [
    "", "0" * 25, "0" * 27, "A" * 26, "0" * 25 + "i", "0" * 25 + "l", "0" * 25 + "o", "0" * 25 + "u",
    "0" * 25 + "\n", "0" * 25 + "/", "0" * 25 + "}", "٠" * 26, "0" * 25 + "*",
])  # fmt: skip
def test_what_is_not_an_id_never_becomes_part_of_a_key(text: str) -> None:
    assert not is_job_id(text)


@given(st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True))
def test_a_jobs_full_name_comes_back_from_its_text(tenant: str) -> None:
    key = JobKey(tenant, new_job_id())
    assert JobKey.parse(str(key)) == key


def _record(**more: object) -> JobRecord:
    fields = {"key": JobKey("acme", "0" * 26), "request": REQUEST, "status": Status.RUNNING}
    return JobRecord(**{**fields, "created_ms": 0, "deadline_ms": 9, **more})  # type: ignore[arg-type]


def test_a_running_job_shows_what_is_known_so_far_and_no_error() -> None:
    view = _record(attempt=2, queue_ms=3, usage={"input_tokens": 4}).view()
    assert view["timings"] == {"queue_ms": 3}
    assert (view["usage"], view["error"], view["finish_reason"]) == ({"input_tokens": 4}, None, None)
    assert (view["finished_at"], view["expires_at"]) == (None, None)
    assert view["events_url"] == f"/jobs/{'0' * 26}/events"


def test_the_number_of_calls_stands_beside_the_tokens_and_not_among_them() -> None:
    kept = {"output_tokens": 4, "provider_calls": 3}
    terminal = {"code": "provider_unavailable", "message": "m", "retryable": True, "usage": kept}
    for record in (_record(usage=kept), _record(status=Status.FAILED, terminal=terminal)):
        view = record.view()
        assert (view["usage"], view["provider_calls"]) == ({"output_tokens": 4}, 3)
    assert kept == {"output_tokens": 4, "provider_calls": 3}
    assert _record().view()["provider_calls"] == 0


def test_a_failed_job_shows_its_error_and_nothing_else_of_its_last_event() -> None:
    terminal = {"code": "internal", "message": "m", "retryable": True, "attempt": 1, "timings": {"latency_ms": 5}}
    view = _record(status=Status.FAILED, terminal=terminal, finished_ms=5, expires_ms=6).view()
    assert view["error"] == {"code": "internal", "message": "m", "retryable": True}
    assert (view["timings"], view["finish_reason"]) == ({"latency_ms": 5}, None)
    assert view["expires_at"] == "1970-01-01T00:00:00.006Z"


def test_a_view_never_shows_the_tenant_or_what_was_asked() -> None:
    shown = str(_record().view())
    assert "acme" not in shown
    assert "messages" not in shown
