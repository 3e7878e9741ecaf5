"""The console on a real node: what a person does with it, and what they see."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Witness
from tests.browser.console import Console
from tests.browser.relay import Relay

pytestmark = pytest.mark.needs_chromium

SPOKEN = (
    "A mill takes a stream’s fall and gives the stream back. The headrace brings the water in, the wheel takes its "
    "strength, and the tailrace leads it away below the mill.\n\n"
    "Without that second channel the spent water would stand under the wheel. It would hold the paddles back, and "
    "every turn would lift water instead of grinding grain. So the tailrace is cut deep and straight: what has done "
    "its work must leave at once, and must not be lost on the way.\n\n"
    "When the sluice is shut for a while, nothing is missing afterwards. The pond keeps what has come in the meantime, "
    "and the stream goes on exactly where it had stopped."
)
PICTURE = Path(__file__).parents[2] / "docs" / "console.png"


def test_the_page_is_served_under_a_policy_that_allows_nothing_foreign(console: Console) -> None:
    policy = console.page.request.get(f"{console.url}/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_an_answer_is_seen_growing_and_ends_as_the_node_has_it(console: Console) -> None:
    console.open()
    expect(console["status"]).to_have_text("idle")
    console.ask(tokens=480, rate=60)
    console.expect_text(at_least=40)
    console.expect_status("running")
    expect(console["connection"]).to_have_text("connected")
    console.expect_text(at_least=len(console.text) + 40)
    console.expect_whole(resumes=0)
    expect(console["attempt"]).to_have_text("1")
    expect(console["token-count"]).to_have_text("480")
    for fact in ("queue", "ttft", "latency"):
        expect(console[fact]).to_contain_text("s")


def test_a_cut_answer_resumes_by_itself_and_ends_byte_exact(console: Console) -> None:
    console.open()
    console.ask(tokens=600, rate=60)
    console.expect_text(at_least=100)
    console["cut"].click()
    expect(console["connection"]).to_contain_text("cut")
    console.expect_whole(resumes=1)
    expect(console["notes"]).to_contain_text("cut at ")
    expect(console["notes"]).to_contain_text("resumed from ")
    expect(console["answer"].locator(".seam")).to_have_count(1)


def test_a_cut_answer_stands_still_until_it_is_resumed_by_hand(console: Console) -> None:
    console.open()
    console["auto-resume"].uncheck()
    console.ask(tokens=800, rate=100)
    console.expect_text(at_least=50)
    console["cut"].click()
    seen, cursor = console.text, console["cursor"].inner_text()
    console.wait_for_the_node()
    assert console.text == seen
    expect(console["cursor"]).to_have_text(cursor)
    console["resume"].click()
    console.expect_whole(resumes=1)
    assert console.text.startswith(seen)
    expect(console["notes"]).to_contain_text(f"resumed from {cursor}")


def test_an_answer_may_be_cut_many_times(console: Console) -> None:
    console.open()
    console["auto-resume"].uncheck()
    console.ask(tokens=900, rate=40)  # long enough to be cut also where the machine stops for seconds
    for cuts in range(1, 5):
        console.expect_text(at_least=len(console.text) + 60)
        console["cut"].click()
        console["resume"].click()
        expect(console["resumes"]).to_have_text(str(cuts))
    console.expect_whole(resumes=4)


@pytest.mark.parametrize("key", ["", "s3cret"], ids=["EventSource", "own reader"])
def test_a_wire_that_breaks_costs_a_pause(console: Console, witness: Witness, relay: Relay, key: str) -> None:
    witness.allowed = r"net::ERR_\w+"
    console.page.add_init_script(f"sessionStorage.setItem('tailrace.api-key', '{key}')")
    console.open()
    console.ask(tokens=800, rate=50)
    for breaks in (1, 2):
        console.expect_text(at_least=len(console.text) + 60)
        relay.cut()
        expect(console["resumes"]).to_have_text(str(breaks))
    console.expect_whole(resumes=2)
    expect(console["notes"]).to_contain_text("connection lost at ")


def test_a_cancelled_job_stops_and_says_so(console: Console) -> None:
    console.open()
    console.ask(tokens=5000, rate=20)
    console.expect_text(at_least=20)
    console["cancel"].click()
    console.expect_status("cancelled")
    expect(console["failure"]).to_contain_text("Cancelled")
    expect(console["cancel"]).to_be_disabled()
    expect(console["cut"]).to_be_disabled()
    assert console.job()["status"] == "cancelled"
    assert console.job()["text"] == console.text


def test_a_job_cancelled_behind_a_cut_shows_its_end(console: Console) -> None:
    console.open()
    console["auto-resume"].uncheck()
    console.ask(tokens=5000, rate=20)
    console.expect_text(at_least=20)
    console["cut"].click()
    console["cancel"].click()
    console.expect_status("cancelled")
    expect(console["doubled"]).to_have_text("0")


def test_a_failed_job_shows_code_message_and_whether_to_retry(console: Console) -> None:
    console.open()
    console.ask(tokens=50, rate=100, on_interrupt="fail", fault={"kind": "error", "after": 10, "attempts": 100})
    console.expect_status("failed")
    error = console.job()["error"]
    expect(console["failure"]).to_contain_text(f"Failed: {error['code']}")
    expect(console["failure"]).to_contain_text(error["message"])
    expect(console["failure"]).to_contain_text("may help" if error["retryable"] else "will not help")
    assert console.text == console.job()["text"]


def test_an_attempt_that_starts_afresh_is_noted_and_ends_whole(console: Console) -> None:
    console.open()
    console.ask(tokens=60, rate=100, fault={"kind": "error", "after": 20})
    expect(console["notes"]).to_contain_text("attempt 2: started afresh: ")
    console.expect_whole()
    expect(console["attempt"]).to_have_text("2")


def test_a_refused_prompt_shows_what_to_mend(console: Console, witness: Witness) -> None:
    witness.allowed = "status of 400"
    console.open()
    console.ask(n=2)
    expect(console["error"]).to_contain_text("A parameter is not on the provider's list")
    expect(console["error"]).to_contain_text("params.n")
    expect(console["error"]).to_contain_text("unsupported_param")
    expect(console["params"]).to_have_attribute("aria-invalid", "true")
    console.ask()
    console.expect_whole()
    expect(console["error"]).to_be_hidden()
    expect(console["params"]).not_to_have_attribute("aria-invalid", "true")


def test_parameters_that_are_no_json_object_never_leave_the_page(console: Console) -> None:
    console.open()
    console["more"].locator("summary").click()
    console["params"].fill("[1]")
    console["submit"].click()
    expect(console["error"]).to_contain_text("not a JSON object")
    expect(console["params"]).to_have_attribute("aria-invalid", "true")
    console.expect_status("idle")


def test_the_last_jobs_are_listed_and_open_on_a_click(console: Console) -> None:
    console.open()
    console.ask(tokens=12)
    console.expect_whole()
    first, text = console.job_id, console.text
    console.ask(tokens=24)
    expect(console["token-count"]).to_have_text("24")
    newest = console["jobs"].locator("li").first
    expect(newest).to_contain_text("done")
    expect(newest.locator("a")).to_have_attribute("href", f"#job={console.job_id}")
    expect(newest).to_contain_text("first token")
    console["jobs"].locator(f"a[href='#job={first}']").click()
    expect(console["token-count"]).to_have_text("12")
    console.expect_whole()
    assert (console.job_id, console.text) == (first, text)
    console.page.go_back()
    expect(console["token-count"]).to_have_text("24")


def test_a_job_submitted_elsewhere_appears_by_the_refresh_button(console: Console) -> None:
    console.open()
    body = {"provider": "scripted", "model": "demo", "prompt": "elsewhere", "params": {"tokens": 3}}
    job = console.page.request.post(f"{console.url}/jobs", data=body).json()
    console["refresh"].click()
    expect(console["jobs"].locator(f"a[href='#job={job['id']}']")).to_be_visible()


def test_a_reload_in_the_middle_comes_back_to_the_same_answer(console: Console) -> None:
    console.open()
    console.ask(tokens=480, rate=60)
    console.expect_text(at_least=100)
    job_id = console.job_id
    console.page.reload()
    console.expect_whole(resumes=0)
    assert console.job_id == job_id


def test_markup_in_an_answer_is_text(console: Console) -> None:
    hostile = '<img src=x onerror="document.title=\'owned\'"> <script>document.title="owned"</script> &amp; <b>bold</b>'
    console.open()
    console.ask(tokens=None, text=hostile)
    console.expect_whole()
    assert "<img src=x onerror=" in console.text
    assert console["answer"].locator("img, script, b").count() == 0
    assert "owned" not in console.page.title()


def test_an_unknown_job_is_told_as_such(console: Console, witness: Witness) -> None:
    witness.allowed = "status of 404"
    console.open("0" * 26)
    expect(console["connection"]).to_contain_text("closed by the node for good")
    expect(console["stream-error"]).to_contain_text("No such job")
    expect(console["resume"]).to_have_text("Reconnect")
    expect(console["resume"]).to_be_enabled()


def test_the_keyboard_is_enough(console: Console) -> None:
    console.open()
    console["tokens"].fill("150")
    console["rate"].fill("60")
    console["auto-resume"].uncheck()
    console["prompt"].focus()
    console.page.keyboard.press("Control+Enter")
    console.expect_text(at_least=40)
    console["cut"].press("Enter")
    expect(console["resume"]).to_be_focused()
    console.page.keyboard.press("Enter")
    expect(console["cut"]).to_be_focused()
    console.expect_whole(resumes=1)


def test_every_field_has_a_label_and_the_state_line_is_announced(console: Console) -> None:
    console.open()
    unnamed = "fields => fields.filter(field => !field.labels.length).map(field => field.id)"
    assert console.page.locator("input, select, textarea").evaluate_all(unnamed) == []
    expect(console.page.locator("[role=status][aria-live=polite]").locator("#status")).to_be_visible()


def test_a_phone_shows_everything_without_scrolling_sideways(console: Console) -> None:
    width = "() => document.documentElement.scrollWidth"
    console.page.set_viewport_size({"width": 375, "height": 740})
    console.open()
    assert console.page.evaluate(width) <= 375
    console.ask(tokens=None, text="An address: https://example.org/" + "long" * 100)
    console.expect_whole()
    expect(console["answer"]).to_be_in_viewport()
    assert console.page.evaluate(width) <= 375
    assert console["answer"].evaluate("box => box.scrollWidth - box.clientWidth") <= 0


def test_the_answer_follows_its_end_only_for_a_reader_who_is_there(console: Console) -> None:
    to_end = "box => box.scrollHeight - box.scrollTop - box.clientHeight"
    console.open()
    console.ask(tokens=900, rate=300)
    console.expect_text(at_least=3000)
    assert console["answer"].evaluate(to_end) < 60
    console["answer"].evaluate("box => { box.scrollTop = 0 }")
    console.expect_whole()
    assert console["answer"].evaluate("box => box.scrollTop") == 0


def test_dark_and_light_follow_the_reader(console: Console) -> None:
    background = "() => getComputedStyle(document.body).backgroundColor"
    console.open()
    light = console.page.evaluate(background)
    console.page.emulate_media(color_scheme="dark")
    assert console.page.evaluate(background) != light


def test_the_picture_in_the_docs_can_be_taken(console: Console, tmp_path: Path) -> None:
    """A cut and resumed answer. TAILRACE_UPDATE_SCREENSHOT=1 puts the picture where the README shows it."""
    update = os.environ.get("TAILRACE_UPDATE_SCREENSHOT") == "1"
    console.open()
    console.ask(tokens=None, rate=50, text=SPOKEN)
    console["more"].evaluate("node => { node.open = false }")
    console.expect_text(at_least=330)
    console["cut"].click()
    console.expect_whole(resumes=1)
    expect(console["jobs"].locator("[aria-current]")).to_contain_text("done")
    picture = console.page.screenshot(path=PICTURE if update else tmp_path / "console.png")
    assert picture.startswith(b"\x89PNG")
