"""The `scripted` provider: what it says is a pure function, its pace does not drift, its faults come where told."""

import asyncio
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events import Token
from shared.params import ScriptedParams
from shared.settings import Settings
from tests.support.provider_calls import CALL, LIMIT_S, call_it
from worker.providers.base import Call, Finish, Usage
from worker.providers.registry import build_providers
from worker.providers.scripted import MARK, PASSAGE, ScriptedProvider, _Pace, script

TEXT = "Ein Wort, naïve 水車\nund 🌊 noch eins"


async def scripted(attempt: int = 1, **params: Any) -> Any:
    return await call_it(ScriptedProvider(), attempt=attempt, params=params)


def text_of(attempt: int = 1, continue_text: str = "", **params: Any) -> str:
    return "".join(script(ScriptedParams(**params), attempt, continue_text))


async def test_it_says_the_given_text_cut_after_each_blank() -> None:
    outcome = await scripted(text=TEXT)
    tokens = [piece.text for piece in outcome.pieces if isinstance(piece, Token)]
    assert tokens == ["Ein ", "Wort, ", "naïve ", "水車\n", "und ", "🌊 ", "noch ", "eins"]
    assert outcome.pieces[-2:] == [Usage({"input_tokens": 5, "output_tokens": 8}), Finish("stop")]


async def test_without_params_it_says_its_passage() -> None:
    assert (await scripted()).text == PASSAGE


async def test_a_text_is_repeated_up_to_the_wanted_number_of_tokens() -> None:
    assert (await scripted(text="a b", tokens=5)).text == "a b a b a "
    assert (await scripted(text="a b", tokens=1)).text == "a "


async def test_it_stops_at_the_jobs_token_limit() -> None:
    outcome = await call_it(ScriptedProvider(), max_tokens=2, params={"text": "a b c"})
    assert (outcome.text, outcome.finish) == ("a b ", "length")
    assert (await call_it(ScriptedProvider(), max_tokens=3, params={"text": "a b c"})).finish == "stop"


async def test_with_a_seed_every_attempt_has_its_own_text_and_always_the_same() -> None:
    first, again, second = [(await scripted(n, seed=7, tokens=40)).text for n in (1, 1, 2)]
    assert first == again == text_of(1, seed=7, tokens=40)
    assert first != second
    assert text_of(1, seed=8, tokens=40) != first


@given(text=st.text(min_size=1).filter(str.strip), tokens=st.integers(1, 40), at=st.integers(0, 400))
def test_a_text_is_continued_exactly_where_it_was_cut(text: str, tokens: int, at: int) -> None:
    whole = text_of(text=text, tokens=tokens)
    assert whole[:at] + text_of(text=text, tokens=tokens, continue_text=whole[:at]) == whole


@given(tokens=st.integers(1, 40), kept=st.integers(1, 40))
def test_another_attempts_text_is_continued_behind_a_mark_with_as_many_tokens_as_are_missing(
    tokens: int, kept: int
) -> None:
    params = ScriptedParams(text="one two three four ", seed=3, tokens=tokens)
    begun = "".join(list(script(params, 1))[:kept])
    rest = list(script(params, 2, begun))
    if rest and rest[0] == MARK:
        assert len(rest) - 1 == max(0, tokens - kept)
        assert rest[1:] == list(script(params, 2))[kept:]
    else:
        assert begun + "".join(rest) == "".join(script(params, 2))


async def test_the_provider_continues_what_the_call_says() -> None:
    outcome = await call_it(ScriptedProvider(), continue_text="Ein Wo", params={"text": TEXT})
    assert "Ein Wo" + outcome.text == TEXT


@pytest.mark.parametrize(("kind", "code"), [("error", "provider_unavailable"), ("drop", "provider_interrupted")])
@pytest.mark.parametrize("after", [0, 2, 8])
async def test_a_fault_comes_after_as_many_tokens_as_told(kind: str, code: str, after: int) -> None:
    outcome = await scripted(text=TEXT, fault={"kind": kind, "after": after})
    assert outcome.code == code
    assert len(outcome.pieces) == after


async def test_a_fault_spares_the_attempts_behind_the_first_ones() -> None:
    fault = {"kind": "drop", "after": 1, "attempts": 2}
    codes = [(await scripted(attempt, text=TEXT, fault=fault)).code for attempt in (1, 2, 3)]
    assert codes == ["provider_interrupted", "provider_interrupted", None]


async def test_an_empty_answer_has_an_end_and_no_content() -> None:
    outcome = await scripted(fault={"kind": "empty"})
    assert (outcome.text, outcome.finish) == ("", "stop")


async def test_a_stalled_answer_can_be_cancelled() -> None:
    seen = asyncio.Event()

    async def read() -> None:
        async for _ in ScriptedProvider().stream(_call(text=TEXT, fault={"kind": "stall", "after": 1})):
            seen.set()

    task = asyncio.create_task(read())
    async with asyncio.timeout(LIMIT_S):
        await seen.wait()
        await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


async def test_the_fault_exit_kills_the_worker_without_a_farewell() -> None:
    program = (
        "import asyncio, sys\n"
        "from worker.providers.scripted import ScriptedProvider\n"
        "from tests.support.provider_calls import CALL, call_it\n"
        "params = {'fault': {'kind': 'exit', 'after': 1}}\n"
        "try: asyncio.run(call_it(ScriptedProvider(), params=params))\n"
        "finally: print('farewell', flush=True)\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(LIMIT_S):
        output, _ = await process.communicate()
    assert (process.returncode, output) == (137, b"")


async def test_a_lost_moment_is_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are due by the clock since the start: after a late one the next wait is shorter, and none is added."""
    waits: list[float] = []
    clock = [100.0]

    async def sleep(seconds: float) -> None:
        waits.append(round(seconds, 6))
        clock[0] += seconds + (0.25 if len(waits) == 2 else 0)

    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock[0])
    pace = _Pace(ScriptedParams(tokens_per_s=10, first_token_ms=500))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    for count in range(7):
        await pace.wait(count)
    assert waits == [0.5, 0.1, 0.05, 0.1, 0.1]
    assert clock[0] == pytest.approx(100 + 0.5 + 6 * 0.1)


async def test_a_fast_answer_leaves_turns_to_others() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await scripted(tokens=3200)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert turns >= 100


async def test_params_of_another_provider_are_rejected() -> None:
    assert (await scripted(top_p=1)).code == "provider_rejected"


async def test_it_is_found_under_its_name() -> None:
    outcome = await call_it(build_providers(Settings())["scripted"], params={"text": TEXT})
    assert outcome.text == TEXT


def _call(**params: Any) -> Call:
    return Call(CALL.job_id, CALL.model, CALL.messages, params=params)
