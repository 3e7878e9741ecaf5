"""What the reaper does with a job, as a table: nobody's work is ended early, and no job is left for ever."""

import pytest

from shared.errors import CODES
from shared.jobs import MAX_ATTEMPTS, MAX_CRASHES, TERMINAL, Status
from shared.recovery import HALF_MADE_MS, OFFER_AFTER_MS, Todo, judge
from shared.storage.jobs import Standing

NOW_MS = 1_000_000_000
DEADLINE_MS = NOW_MS + 60_000
OLD_MS = NOW_MS - OFFER_AFTER_MS - 1


def _standing(
    status: Status = Status.RUNNING,
    *,
    lease_ms: int = 0,
    attempt: int = 1,
    crashes: int = 0,
    deadline_ms: int = DEADLINE_MS,
    unread_at_ms: int | None = None,
) -> Standing:
    return Standing(lease_ms, status, 7, attempt, crashes, deadline_ms, 5, unread_at_ms)


def _judge(standing: Standing | None, *, indexed_ms: int = OLD_MS, known_ms: float = 0, trusted: bool = True) -> Todo:
    return judge(standing, indexed_ms=indexed_ms, known_ms=known_ms, now_ms=NOW_MS, leases_can_be_trusted=trusted)


QUEUED, RUNNING = Status.QUEUED, Status.RUNNING


@pytest.mark.parametrize(("standing", "todo"), [
    # Running: whoever holds the lease works on it; without one it is offered, until that has happened too often.
    (_standing(lease_ms=1), Todo.NOTHING),
    (_standing(lease_ms=1, attempt=MAX_ATTEMPTS, crashes=MAX_CRASHES), Todo.NOTHING),
    (_standing(), Todo.OFFER),
    (_standing(crashes=MAX_CRASHES - 2), Todo.OFFER),
    (_standing(crashes=MAX_CRASHES - 1), Todo.POISONED),
    (_standing(crashes=MAX_CRASHES - 1, attempt=MAX_ATTEMPTS), Todo.POISONED),
    (_standing(attempt=MAX_ATTEMPTS - 1), Todo.OFFER),
    (_standing(attempt=MAX_ATTEMPTS), Todo.EXHAUSTED),
    # The deadline ends any open job, even one that somebody works on or nobody ever took.
    (_standing(deadline_ms=NOW_MS), Todo.DEADLINE),
    (_standing(lease_ms=5000, deadline_ms=NOW_MS), Todo.DEADLINE),
    (_standing(QUEUED, deadline_ms=NOW_MS), Todo.DEADLINE),
    (_standing(QUEUED, deadline_ms=NOW_MS + 1), Todo.OFFER),
    # Queued: offered, however often it was drained; the claim knows what to do with its attempts.
    (_standing(QUEUED), Todo.OFFER),
    (_standing(QUEUED, attempt=MAX_ATTEMPTS), Todo.OFFER),
    # Nobody reads it, and it is to be cancelled then, whether or not somebody works on it.
    (_standing(QUEUED, unread_at_ms=NOW_MS), Todo.UNREAD),
    (_standing(lease_ms=5000, unread_at_ms=NOW_MS), Todo.UNREAD),
    (_standing(lease_ms=5000, unread_at_ms=NOW_MS + 1), Todo.NOTHING),
    (_standing(unread_at_ms=NOW_MS, deadline_ms=NOW_MS), Todo.DEADLINE),
])  # fmt: skip
def test_the_table_of_judgements(standing: Standing, todo: Todo) -> None:
    assert _judge(standing) is todo


@pytest.mark.parametrize("status", sorted(TERMINAL))
@pytest.mark.parametrize("deadline_ms", [NOW_MS - 1, DEADLINE_MS])
def test_a_job_that_has_ended_is_only_taken_off_the_index(status: Status, deadline_ms: int) -> None:
    assert _judge(_standing(status, deadline_ms=deadline_ms), trusted=False) is Todo.CLOSE


@pytest.mark.parametrize(("age_ms", "todo"), [
    (OFFER_AFTER_MS, Todo.NOTHING),
    (OFFER_AFTER_MS + 1, Todo.OFFER),
])  # fmt: skip
def test_a_job_whose_post_may_still_be_about_to_offer_it_is_left_alone(age_ms: int, todo: Todo) -> None:
    assert _judge(_standing(QUEUED), indexed_ms=NOW_MS - age_ms) is todo


@pytest.mark.parametrize(("age_ms", "todo"), [(HALF_MADE_MS, Todo.NOTHING), (HALF_MADE_MS + 1, Todo.CLOSE)])
def test_a_half_made_job_is_given_up_when_its_post_cannot_come_back(age_ms: int, todo: Todo) -> None:
    assert _judge(None, known_ms=age_ms) is todo


@pytest.mark.parametrize("off_ms", [-3_600_000, 3_600_000])
def test_a_node_whose_clock_is_wrong_makes_no_job_that_is_forgotten(off_ms: int) -> None:
    assert _judge(None, indexed_ms=NOW_MS + off_ms) is Todo.NOTHING
    assert _judge(_standing(QUEUED), indexed_ms=NOW_MS + off_ms, known_ms=OFFER_AFTER_MS + 1) is Todo.OFFER


@pytest.mark.parametrize("crashes", range(MAX_CRASHES))
def test_a_lapsed_lease_means_nothing_while_the_store_may_have_been_away(crashes: int) -> None:
    assert _judge(_standing(crashes=crashes), trusted=False) is Todo.NOTHING


def test_a_job_is_not_called_unread_while_no_node_could_say_that_it_is_read() -> None:
    assert _judge(_standing(lease_ms=5000, unread_at_ms=NOW_MS), trusted=False) is Todo.NOTHING


def test_distrust_of_leases_holds_neither_an_offer_nor_a_deadline_back() -> None:
    assert _judge(_standing(QUEUED), trusted=False) is Todo.OFFER
    assert _judge(_standing(deadline_ms=NOW_MS), trusted=False) is Todo.DEADLINE


@pytest.mark.parametrize("todo", [Todo.DEADLINE, Todo.POISONED, Todo.EXHAUSTED])
def test_every_end_that_the_reaper_gives_is_a_code_of_ours(todo: Todo) -> None:
    assert todo.value in CODES
