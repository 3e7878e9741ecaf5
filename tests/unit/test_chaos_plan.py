"""The chaos program can be repeated: its plan follows from the seed, its provider's texts from prompt and call."""

from collections import Counter
from contextlib import aclosing

import pytest

from chaos.oracle import calls_too_many, terms_of
from chaos.plan import FAULTS, JobPlan, make_plan
from chaos.provider import NumberedProvider, numbered
from shared.jobs import Message
from shared.settings import Settings
from tests.support.provider_calls import call_it
from worker.providers.openai import OpenAIProvider

PROMPT = "nonce:r1-j1.5 tokens:9 rate:0 fault:drop:4:1"


def test_the_same_seed_makes_the_same_plan_and_another_seed_another() -> None:
    assert make_plan(7, 30) == make_plan(7, 30)
    assert make_plan(7, 30) != make_plan(8, 30)
    assert make_plan(7, 30)[:20] == make_plan(7, 20)


def test_a_long_plan_holds_every_fault_about_as_often_as_its_weight_says() -> None:
    counts = Counter(round_.fault for round_ in make_plan(1, 2000))

    assert set(counts) == set(FAULTS)
    for fault, weight in FAULTS.items():
        share = weight / sum(FAULTS.values())
        assert 0.5 * share < counts[fault] / 2000 < 1.6 * share, fault


def test_jobs_of_a_plan_have_names_of_their_own_and_come_in_every_kind() -> None:
    jobs = [job for round_ in make_plan(1, 300) for job in round_.jobs]

    assert len({job.name for job in jobs}) == len({job.prompt for job in jobs}) == len(jobs)
    assert {job.on_interrupt for job in jobs} == {"restart", "continue", "fail"}
    assert {job.provider for job in jobs} == {"scripted", "openai", "anthropic"}
    assert {job.posts for job in jobs} == {0, 1, 2, 3}
    assert any(job.cancel_s is not None for job in jobs)
    assert any(job.delete_s is not None for job in jobs)
    assert any("fault:" in job.prompt for job in jobs)


async def test_what_the_provider_says_at_each_call_is_known_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    async with NumberedProvider() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        async with aclosing(OpenAIProvider(Settings())) as provider:
            calls = [await call_it(provider, messages=[Message("user", PROMPT)]) for _ in range(2)]

    assert calls[0].code == "provider_interrupted"
    assert calls[0].text
    assert numbered(PROMPT, 1).startswith(calls[0].text)
    assert calls[1].text == numbered(PROMPT, 2) != numbered(PROMPT, 1)
    assert server.calls[PROMPT] == 2


def test_more_generations_than_attempts_are_told() -> None:
    plan = JobPlan("j", 0, "openai", "nonce:j.1 tokens:5", {}, "restart", 3, ())

    assert calls_too_many(plan, 2, 2) == []
    assert calls_too_many(plan, 3, 2) != []
    said = terms_of(plan, 2, cancelled=False, within_s=9).says(1, "")
    assert said == [numbered(plan.prompt, 1), numbered(plan.prompt, 2)]
