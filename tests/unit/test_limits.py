"""Limits as they are read and reckoned, without a store: the table, the batches of permits, the expected wait."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.limits import within
from api.load import Load, Wait
from api.permits import LEASE_S, Bucket, Permits
from shared.errors import StorageError, TailraceError
from shared.jobs import JobRequest, Message
from shared.limits import NONE, Limits, LimitTable
from shared.settings import Settings
from shared.spending import tokens_in
from shared.storage.limits import NO_SHARE, Granted
from tests.support.loops import GUARD_S, end, until


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Store:
    """Gives permits as it is told, and counts how often it is asked."""

    def __init__(self, *answers: Granted | Exception) -> None:
        self.answers = list(answers)
        self.wanted: list[int] = []
        self.held: asyncio.Event | None = None

    async def permits(self, bucket: str, per_s: float, burst: float, wanted: int) -> Granted:
        self.wanted.append(wanted)
        if self.held is not None:
            await self.held.wait()
        answer = self.answers.pop(0) if self.answers else Granted(wanted, 50, 0.0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def _permits(store: Store, clock: Callable[[], float], *, burst: int = 80, patience_s: float = 5.0) -> Permits:
    return Permits(store, "k", 10.0, burst, clock, patience_s)  # type: ignore[arg-type]


# -- the table


def test_without_keys_only_what_somebody_has_asked_for_is_limited() -> None:
    assert LimitTable(Settings()).of("default", keyed=False) is NONE
    assert LimitTable(Settings(key_readers=7)).of("default", keyed=False) == Limits(readers=7)
    assert LimitTable(Settings()).of("acme") == Limits(
        requests_per_s=100, request_burst=200, readers=1000, readers_per_job=100, open_jobs=2000, store_percent=50
    )


def test_a_tenant_may_have_limits_of_its_own(tmp_path: Path) -> None:
    toml, json = tmp_path / "limits.toml", tmp_path / "limits.json"
    toml.write_text("[acme]\nopen_jobs = 5\nrequests_per_s = 0.5\n")
    json.write_text('{"acme": {"open_jobs": 5, "requests_per_s": 0.5}}')
    for path in (toml, json):
        table = LimitTable(Settings(limits_file=str(path), key_readers=9))
        acme, other = table.of("acme"), table.of("umbrella")
        assert (acme.open_jobs, acme.requests_per_s, acme.readers) == (5, 0.5, 9)
        assert (other.open_jobs, other.requests_per_s, other.readers) == (2000, 100.0, 9)
        assert table.of("acme", keyed=False).open_jobs == 5


@pytest.mark.parametrize(("text", "named"), [
    ("[acme]\nopen_job = 5", "acme.*open_job"),
    ("[acme]\nopen_jobs = -5", "acme.*open_jobs"),
    ("[acme]\nreaders = 'many'", "acme.*readers"),
    ("[acme]\nrequest_burst = 0", "acme.*request_burst"),
    ("acme = 5", "acme"),
    ("['a b']\nreaders = 1", "a b"),
    ("[acme\nreaders = 1", "line"),
])  # fmt: skip
def test_a_file_that_is_not_sound_is_named_with_its_field(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"TAILRACE_LIMITS_FILE .*limits\.toml.*{named}"):
        LimitTable(Settings(limits_file=str(path)))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"TAILRACE_LIMITS_FILE /nowhere/limits\.toml cannot be read"):
        LimitTable(Settings(limits_file="/nowhere/limits.toml"))


# -- how large a job may be


def _request(**fields: Any) -> JobRequest:
    return JobRequest(**{"provider": "openai", "model": "m", "messages": [Message("user", "hi")], **fields})


def test_a_job_that_names_no_max_tokens_gets_the_cap() -> None:
    limits = Limits(max_tokens=500)
    assert within(limits, _request(), frozenset()).max_tokens == 500
    assert within(limits, _request(max_tokens=20), frozenset()).max_tokens == 20
    assert within(NONE, _request(), frozenset()).max_tokens is None
    other = _request(params={"max_completion_tokens": 30})
    assert within(limits, other, frozenset()) == other
    chain = _request(provider="langchain", model="support")
    assert within(limits, chain, frozenset({"support"})) == chain


@pytest.mark.parametrize(
    ("field", "asked"),
    [("max_tokens", {"max_tokens": 501}), ("params.max_completion_tokens", {"params": {"max_completion_tokens": 501}})],
)
def test_a_job_that_asks_for_more_than_the_cap_is_refused_by_name(field: str, asked: dict[str, Any]) -> None:
    with pytest.raises(TailraceError, match="at most 500") as caught:
        within(Limits(max_tokens=500), _request(**asked), frozenset())
    assert (caught.value.code, caught.value.field) == ("invalid_request", field)


def test_a_prompt_is_measured_with_its_system_in_bytes() -> None:
    request = _request(messages=[Message("user", "ü" * 50)], system="ü" * 50)
    assert within(Limits(prompt_bytes=300), request, frozenset()) == request
    with pytest.raises(TailraceError, match="200 bytes") as caught:
        within(Limits(prompt_bytes=200), request, frozenset())
    assert caught.value.code == "payload_too_large"


def test_tokens_are_those_that_went_in_and_came_out() -> None:
    assert tokens_in({"input_tokens": 3, "output_tokens": 4, "reasoning_output_tokens": 2, "provider_calls": 1}) == 7
    assert tokens_in({}) == 0


# -- permits


def test_a_bucket_gives_its_burst_then_its_rate() -> None:
    clock = Clock()
    bucket = Bucket(2.0, 3, clock)
    assert [bucket.take().passed for _ in range(4)] == [True, True, True, False]
    assert bucket.take().wait_s == pytest.approx(0.5)
    clock.now_s += 1.0
    assert [bucket.take().passed for _ in range(3)] == [True, True, False]


async def test_a_busy_node_asks_once_a_batch() -> None:
    store = Store()
    permits = _permits(store, Clock())
    verdicts = [await permits.take() for _ in range(100)]
    assert all(verdict.passed for verdict in verdicts)
    assert store.wanted[:5] == [1, 2, 4, 8, 10]
    assert len(store.wanted) < 15


async def test_those_who_come_while_it_is_asked_share_the_answer() -> None:
    store = Store()
    store.held = asyncio.Event()
    permits = _permits(store, Clock())
    first = asyncio.create_task(permits.take())
    await until(lambda: len(store.wanted) == 1)
    others = [asyncio.create_task(permits.take()) for _ in range(9)]
    await until(lambda: permits._waiting == 10)
    store.held.set()
    assert [(await task).passed for task in (first, *others)] == [True] * 10
    assert store.wanted == [1, 9]


async def test_permits_lapse_with_their_lease() -> None:
    store, clock = Store(Granted(5, 0, 0.0), Granted(0, 0, 3.0)), Clock()
    permits = _permits(store, clock)
    assert (await permits.take()).passed
    clock.now_s += LEASE_S
    assert not (await permits.take()).passed


async def test_a_refusal_is_remembered_until_there_is_another_permit() -> None:
    store, clock = Store(Granted(0, 0, 3.0)), Clock()
    permits = _permits(store, clock)
    refusals = [await permits.take() for _ in range(5)]
    assert not any(verdict.passed for verdict in refusals)
    assert refusals[-1].wait_s == pytest.approx(3.0)
    assert len(store.wanted) == 1
    clock.now_s += 3.01
    assert (await permits.take()).passed


async def test_without_a_store_a_node_counts_by_itself_and_nobody_waits_for_it() -> None:
    store, clock = Store(StorageError("storage_unavailable")), Clock()
    permits = _permits(store, clock, burst=5)
    assert [(await permits.take()).passed for _ in range(7)] == [True] * 5 + [False] * 2
    assert len(store.wanted) == 1
    clock.now_s += 1.01
    assert (await permits.take()).passed
    assert len(store.wanted) == 2


async def test_a_store_that_hangs_keeps_nobody_waiting() -> None:
    store = Store()
    store.held = asyncio.Event()
    permits = _permits(store, Clock(), patience_s=0.01)
    async with asyncio.timeout(GUARD_S):
        assert (await permits.take()).passed


async def test_a_request_that_goes_leaves_the_others_their_answer() -> None:
    store = Store()
    store.held = asyncio.Event()
    permits = _permits(store, Clock())
    first = asyncio.create_task(permits.take())
    await until(lambda: len(store.wanted) == 1)
    second = asyncio.create_task(permits.take())
    await until(lambda: permits._waiting == 2)
    await end(first)
    store.held.set()
    assert (await second).passed
    assert permits._waiting == 0


# -- the expected wait


def _seen(*looks: tuple[float, int, int]) -> Wait:
    wait = Wait(10.0)
    for at_s, waiting, begun in looks:
        wait.saw(at_s, {"acme": waiting} if waiting else {}, begun)
    return wait


def test_the_wait_is_what_waits_by_the_rate_at_which_jobs_begin() -> None:
    assert _seen((0, 50, 0), (1, 50, 10), (2, 60, 20)).expected_s("acme") == pytest.approx(6.0)
    assert _seen((0, 50, 0), (1, 50, 10), (2, 60, 20)).expected_s("acme", 40) == pytest.approx(10.0)


def test_where_nobody_waits_a_low_rate_says_nothing_of_workers() -> None:
    assert _seen((0, 0, 0), (60, 0, 1), (61, 1, 1)).expected_s("acme") == 0.0
    assert _seen((0, 5, 0), (1, 0, 5), (2, 5, 6)).expected_s("acme") == 0.0


def test_a_tenant_waits_for_as_many_of_each_others_jobs_as_it_has_itself() -> None:
    wait = Wait(10.0)
    wait.saw(0, {"acme": 10_000, "umbra": 3, "third": 7}, 0)
    wait.saw(1, {"acme": 10_000, "umbra": 3, "third": 7}, 10)
    assert wait.expected_s("new") == 0.0
    assert wait.expected_s("new", 1) == pytest.approx(0.4)
    assert wait.expected_s("umbra") == pytest.approx(0.9)
    assert wait.expected_s("third") == pytest.approx(1.7)
    assert wait.expected_s("acme") == pytest.approx(1001.0)


async def test_who_floods_the_queue_is_refused_alone() -> None:
    stores, clock = Stores(), Clock()
    load = _load(stores, clock, max_wait_s=5)
    for stores.waiting, stores.begun in ((50, 0), (100, 10)):
        await load.look()
        clock.now_s += 1
    assert _refusal(load, "acme") is not None
    assert _refusal(load, "umbra") is None


def test_where_nothing_begins_the_wait_is_at_least_what_was_seen_of_it() -> None:
    assert _seen((0, 1, 7), (4, 2, 7), (8, 3, 7)).expected_s("acme") == 8.0


def test_a_counter_that_was_lost_begins_anew() -> None:
    assert _seen((0, 5, 1000), (1, 5, 1010), (2, 5, 0)).expected_s("acme") == 0.0


def test_what_was_seen_long_ago_is_forgotten() -> None:
    looks = [(float(at), 100, 0 if at < 20 else (at - 20) * 50) for at in range(40)]
    assert _seen(*looks).expected_s("acme") == pytest.approx(2.0)


class Stores:
    """Both stores as a node's load sees them."""

    waiting, begun, used, most = 0, 0, 0, 0
    away = False
    asked = 0

    async def work(self) -> tuple[dict[str, int], int]:
        if self.away:
            raise StorageError("storage_unavailable")
        return {"acme": self.waiting} if self.waiting else {}, self.begun

    async def memory(self) -> tuple[int, int]:
        self.asked += 1
        return self.used, self.most


def _load(stores: Stores, clock: Clock, **settings: Any) -> Load:
    return Load(Settings(**settings), stores, stores, clock)  # type: ignore[arg-type]


def _refusal(load: Load, tenant: str = "acme") -> TailraceError | None:
    try:
        load.find_room(tenant)
    except TailraceError as error:
        return error
    return None


async def test_a_queue_that_is_too_long_is_refused_and_how_long_to_wait_is_said() -> None:
    stores, clock = Stores(), Clock()
    load = _load(stores, clock, max_wait_s=5)
    for stores.waiting, stores.begun in ((50, 0), (100, 10)):
        await load.look()
        clock.now_s += 1
    refused = _refusal(load)
    assert refused is not None
    assert refused.code == "overloaded"
    assert refused.retry_after_s == pytest.approx(5.0)
    stores.waiting, stores.begun = 20, 30
    await load.look()
    assert _refusal(load) is None


@pytest.mark.parametrize("most_s", [5, 30])
async def test_without_any_worker_new_jobs_are_refused_after_the_longest_wait(most_s: int) -> None:
    stores, clock = Stores(), Clock()
    stores.waiting, load = 50, _load(stores, clock, max_wait_s=most_s)
    for _ in range(10 * most_s):
        await load.look()
        clock.now_s += 0.9
        if _refusal(load, "umbra") is not None:
            break
    assert clock.now_s - 100.0 == pytest.approx(most_s, abs=2.0)
    for _ in range(10 * most_s):
        await load.look()
        assert _refusal(load, "umbra") is not None
        clock.now_s += 0.9


async def test_jobs_that_came_since_the_last_look_are_counted_as_waiting() -> None:
    stores, clock = Stores(), Clock()
    load = _load(stores, clock, max_wait_s=5)
    for stores.waiting, stores.begun in ((45, 0), (45, 10)):
        await load.look()
        clock.now_s += 1
    refusals = [_refusal(load) is not None for _ in range(10)]
    assert refusals == [False] * 6 + [True] * 4


async def test_a_store_that_is_nearly_full_takes_no_new_jobs() -> None:
    stores, clock = Stores(), Clock()
    stores.most = 1000
    load = _load(stores, clock)
    for used, code in ((849, None), (850, "storage_full"), (849, None)):
        stores.used = used
        await load.look()
        refused = _refusal(load)
        assert (None if refused is None else refused.code) == code


async def test_a_job_takes_of_its_tenants_share_what_its_prompt_and_its_time_are() -> None:
    stores, clock = Stores(), Clock()
    load = _load(stores, clock, job_ttl_s=100)
    limits, short = Limits(store_percent=50), JobRequest("scripted", "m", [Message("user", "x")])
    long = JobRequest("scripted", "m", [Message("user", "x" * 98_000)])
    await load.look()
    assert load.share(long, limits, 100) == NO_SHARE, "a store without a limit has no shares"
    clock.now_s += 61
    stores.most = 4_000_000
    await load.look()
    takes_ms, whole_ms = load.share(long, limits, 100)
    assert whole_ms == 100_000
    assert takes_ms == pytest.approx(0.1 * whole_ms, rel=0.05), "a tenth of the million that can be had at once"
    assert load.share(short, limits, 100).takes_ms < takes_ms / 20
    assert load.share(long, limits, 700).takes_ms == pytest.approx(7 * takes_ms, rel=0.01)
    assert load.share(long, limits, 1).takes_ms == takes_ms
    assert load.share(long, NONE, 100) == NO_SHARE


async def test_a_store_without_a_limit_is_seldom_looked_at_and_never_full() -> None:
    stores, clock = Stores(), Clock()
    stores.used = 10**12
    load = _load(stores, clock)
    for _ in range(30):
        await load.look()
        clock.now_s += 1
    assert stores.asked == 1
    assert _refusal(load) is None


async def test_what_was_seen_before_the_store_went_away_refuses_nobody_for_long() -> None:
    stores, clock = Stores(), Clock()
    stores.used = stores.most = 1000
    load = _load(stores, clock)
    await load.look()
    assert _refusal(load) is not None
    clock.now_s += 5.1
    assert _refusal(load) is None
