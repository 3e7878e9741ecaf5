"""The console and what a wire may bring that a healthy node brings seldom: played frames, in a real browser."""

import json
import re

import pytest
from playwright.sync_api import Route, expect

from tests.browser.conftest import Witness
from tests.browser.console import PLAYED_JOB, Console, PlayedNode, ending, frame, opening

pytestmark = pytest.mark.needs_chromium


def play(console: Console, *answers: str | int) -> PlayedNode:
    node = PlayedNode(answers)
    node.attach(console.page)
    console.open(PLAYED_JOB)
    return node


def expect_counts(console: Console, *, lost: int = 0, doubled: int = 0) -> None:
    expect(console["lost"]).to_have_text(str(lost))
    expect(console["doubled"]).to_have_text(str(doubled))


def test_a_reset_keeps_code_points_and_not_utf16_units(console: Console) -> None:
    play(
        console,
        opening()
        + frame("reasoning", "7-3", text="hm")
        + frame("token", "7-4", text="a\U0001f30ab\U0001f30ac")
        + frame("reset", "9-5", attempt=2, keep=3, reason="drained", text="-")
        + frame("start", "9-6", attempt=2, provider="scripted", model="demo", queue_ms=4)
        + frame("token", "9-7", text="end")
        + ending("9-8", 1),
    )
    console.expect_status("done")
    assert console.text == "a\U0001f30ab-end"
    expect(console["notes"]).to_contain_text("attempt 2: went on after 3 characters: drained")
    expect(console["reasoning"]).to_be_hidden()
    expect_counts(console)


def test_a_reset_to_nothing_starts_afresh(console: Console) -> None:
    play(
        console,
        opening()
        + frame("token", "7-3", text="gone")
        + frame("reset", "9-4", attempt=2, keep=0, reason="worker_lost")
        + frame("start", "9-5", attempt=2, provider="scripted", model="demo", queue_ms=4)
        + frame("token", "9-6", text="new")
        + ending("9-7", 1),
    )
    console.expect_status("done")
    assert console.text == "new"
    expect(console["notes"]).to_contain_text("attempt 2: started afresh: worker_lost")


def test_a_snapshot_sets_everything_anew_and_re_bases_the_count(console: Console) -> None:
    call = {"index": 0, "id": "c1", "name": "look", "arguments": "{}"}
    play(
        console,
        opening()
        + frame("token", "7-3", text="lost in a failover")
        + frame(
            "reset",
            "9-40",
            attempt=2,
            keep=0,
            reason="trimmed",
            snapshot=True,
            text="so",
            reasoning="hm",
            tool_calls=[call],
        )
        + frame("token", "9-41", text=" far")
        + ending("9-42", 2),
    )
    console.expect_status("done")
    assert console.text == "so far"
    expect(console["reasoning"]).to_have_text("hm")
    expect(console["tools"]).to_have_text("look({})")
    expect(console["notes"]).to_contain_text("snapshot")
    expect_counts(console)


def test_reasoning_and_tool_calls_stand_apart_from_the_text(console: Console) -> None:
    play(
        console,
        opening()
        + frame("reasoning", "7-4", text="let me see", n=2)
        + frame("tool_call", "7-5", index=0, id="c1", name="flow", arguments='{"river":')
        + frame("tool_call", "7-6", index=0, id="c1", name="flow", arguments='"Aare"}')
        + frame("token", "7-7", text="much")
        + ending("7-8", 1),
    )
    console.expect_status("done")
    assert console.text == "much"
    expect(console["reasoning"]).to_have_text("let me see")
    expect(console["tools"].locator("li")).to_have_text(['flow({"river":"Aare"})'])
    expect_counts(console)


def test_a_hole_and_a_repetition_are_counted(console: Console) -> None:
    again = frame("token", "7-4", text="ab", n=2)
    play(console, opening() + again + again + frame("token", "7-8", text="c") + ending("7-9", 4))
    console.expect_status("done")
    assert console.text == "abc"
    expect_counts(console, lost=3, doubled=2)


def test_a_break_in_the_middle_is_mended_by_the_browser_itself(console: Console) -> None:
    play(console, opening() + frame("token", "7-3", text="one "), frame("token", "7-4", text="two") + ending("7-5", 2))
    console.expect_status("done")
    assert console.text == "one two"
    expect(console["resumes"]).to_have_text("1")
    expect_counts(console)


def test_a_cut_reader_asks_for_what_follows_its_cursor(console: Console) -> None:
    # The first answer breaks off and the browser comes back to a node that has nothing new: there is time to cut.
    node = play(console, opening() + frame("token", "7-3", text="one "), "", "", "", "")
    expect(console["cursor"]).to_have_text("7-3")
    console["cut"].click()
    node.answers = [frame("token", "7-4", text="two") + ending("7-5", 2)]
    console["resume"].click()
    console.expect_status("done")
    assert console.text == "one two"
    assert node.requests[-1].url.endswith("?last_event_id=7-3")


def test_a_refusal_is_final_and_says_why(console: Console, witness: Witness) -> None:
    witness.allowed = "status of 410"
    node = play(console, 410)
    expect(console["connection"]).to_contain_text("closed by the node for good")
    expect(console["stream-error"]).to_contain_text("The job has expired")
    node.answers = [opening() + frame("token", "7-3", text="back") + ending("7-4", 1)]
    console["resume"].click()
    console.expect_status("done")
    assert console.text == "back"
    expect(console["stream-error"]).to_be_hidden()


def test_a_log_that_is_gone_ends_the_answer_without_an_id(console: Console) -> None:
    gone = {
        "code": "log_lost",
        "message": "The log of this job is gone.",
        "retryable": True,
        "attempt": 1,
        "timings": {},
    }
    play(console, opening() + frame("token", "7-3", text="half") + f"event: failed\ndata: {json.dumps(gone)}\n\n")
    console.expect_status("failed")
    expect(console["failure"]).to_contain_text("log_lost")
    expect(console["failure"]).to_contain_text("may help")
    expect_counts(console)


def test_markup_is_text_wherever_a_servers_words_are_shown(console: Console) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    failed = frame("failed", "7-5", code=hostile, message=hostile, retryable=False, attempt=1, timings={})
    call = frame("tool_call", "7-3", index=0, id="c1", name=hostile, arguments=hostile)
    error = {"code": hostile, "message": hostile, "retryable": False}
    job = {"id": PLAYED_JOB, "provider": hostile, "model": hostile, "status": "failed", "error": error, "attempt": 1}
    node = PlayedNode([opening() + call + frame("reasoning", "7-4", text=hostile) + failed], [job | {"created_at": ""}])
    node.attach(console.page)
    console.open(PLAYED_JOB)
    for shown in ("failure", "tools", "reasoning", "jobs"):
        expect(console[shown]).to_contain_text(hostile)
    expect(console.page.locator("img")).to_have_count(0)


def test_with_a_key_the_page_reads_by_itself_and_resumes_alike(console: Console) -> None:
    # A cut inside a frame: half an event is no event, and comes again whole.
    half = frame("token", "7-4", text="two")[:-9]
    node = PlayedNode(
        [opening() + frame("token", "7-3", text="one ") + half, frame("token", "7-4", text="two") + ending("7-5", 2)]
    )
    node.attach(console.page)
    console.open()
    console["api-key"].fill("s3cret")
    console["api-key"].press("Enter")
    console.page.evaluate(f"() => {{ location.hash = 'job={PLAYED_JOB}' }}")
    console.expect_status("done")
    assert console.text == "one two"
    expect(console["resumes"]).to_have_text("1")
    expect_counts(console)
    assert [request.headers.get("authorization") for request in node.requests] == ["Bearer s3cret"] * 2
    assert [request.headers.get("last-event-id") for request in node.requests] == [None, "7-3"]
    assert console.page.evaluate("() => [localStorage.length, sessionStorage.length]") == [0, 1]


def test_with_a_key_any_line_end_and_comments_between_are_read(console: Console) -> None:
    body = opening() + ": ka\n" + frame("token", "7-3", text="a\r\nb") + ": ka\n" + ending("7-4", 1)
    node = PlayedNode([body.replace("\n", "\r\n")])
    node.attach(console.page)
    console.page.add_init_script("sessionStorage.setItem('tailrace.api-key', 's3cret')")
    console.open(PLAYED_JOB)
    console.expect_status("done")
    assert console.text == "a\r\nb"
    expect_counts(console)


def test_a_refused_key_is_told_where_the_answer_would_be(console: Console, witness: Witness) -> None:
    witness.allowed = "status of 401"
    PlayedNode([401]).attach(console.page)
    console.page.add_init_script("sessionStorage.setItem('tailrace.api-key', 'wrong')")
    console.open(PLAYED_JOB)
    expect(console["stream-error"]).to_contain_text("unauthorized")
    expect(console["resume"]).to_have_text("Reconnect")


def test_a_post_that_nobody_answered_is_repeated_under_the_same_key(console: Console, witness: Witness) -> None:
    witness.allowed = "Failed to load resource: net::"
    keys: list[str | None] = []

    def lose(route: Route) -> None:
        keys.append(route.request.headers.get("idempotency-key"))
        route.abort()

    console.open()
    console.page.route(re.compile(r"/jobs$"), lose)
    console["submit"].click()
    expect(console["error"]).to_contain_text("The node cannot be reached")
    console["submit"].click()
    expect(console["submit"]).to_have_attribute("aria-busy", "false")
    console["prompt"].fill("Another question")
    with console.page.expect_request(re.compile(r"/jobs$")):
        console["submit"].click()
    expect(console["submit"]).to_have_attribute("aria-busy", "false")
    assert len(keys) == 3
    assert keys[0]
    assert keys[0] == keys[1] != keys[2]


def test_twenty_thousand_tokens_are_shown_without_choking(console: Console) -> None:
    tokens = "".join(frame("token", f"7-{seq}", text=f"word {seq}\n" if seq % 9 else "a ") for seq in range(3, 20_003))
    play(console, opening() + tokens + ending("7-20003", 20_000))
    console.expect_status("done")
    expect(console["token-count"]).to_have_text("20000")
    assert console.text.count("\n") + console.text.count("a ") >= 20_000 - 1
    expect_counts(console)
