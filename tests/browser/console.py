"""The console as a person meets it: what the tests of the page look at and press, and a node that is only played."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Locator, Page, Request, Route, expect

PLAYED_JOB = "0" * 26
SHOWN_TEXT = "node => node.textContent"
"""The text as it stands in the page; matchers of the browser driver fold white space."""


class Console:
    """The page, by what stands on it."""

    def __init__(self, page: Page, node_url: str) -> None:
        self.page = page
        self.url = node_url

    def __getitem__(self, element_id: str) -> Locator:
        return self.page.locator(f"#{element_id}")

    def open(self, job_id: str | None = None) -> None:
        """Load the page, idle or with a job."""
        self.page.goto(f"{self.url}/" + (f"#job={job_id}" if job_id else ""))

    def ask(self, *, tokens: int | None = 60, rate: float = 0, on_interrupt: str = "restart", **params: object) -> None:
        """Submit a scripted job by the form."""
        self["provider"].select_option("scripted")
        self["tokens"].fill("" if tokens is None else str(tokens))
        self["rate"].fill(str(rate))
        self["more"].evaluate("node => { node.open = true }")
        self["on-interrupt"].select_option(on_interrupt)
        self["params"].fill(json.dumps(params) if params else "")
        self["submit"].click()

    @property
    def text(self) -> str:
        """The answer as it stands there, code point for code point."""
        return str(self["answer"].evaluate(SHOWN_TEXT))

    def expect_text(self, at_least: int) -> None:
        """Wait until so many characters of the answer are to be seen."""
        expect(self["answer"]).to_have_text(re.compile(f".{{{at_least}}}", re.DOTALL))

    def expect_status(self, status: str) -> None:
        """Wait for the word of the state line."""
        expect(self["status"]).to_have_text(status)

    def expect_whole(self, *, resumes: int | None = None) -> None:
        """The answer is done, as the node has it, and the page's own count proves that nothing was lost or doubled."""
        self.expect_status("done")
        expect(self["lost"]).to_have_text("0")
        expect(self["doubled"]).to_have_text("0")
        job = self.job()
        assert job["status"] == "done"
        assert job["text"]
        assert self.text == job["text"]
        expect(self["cursor"]).to_have_text(job["last_event_id"])
        if resumes is not None:
            expect(self["resumes"]).to_have_text(str(resumes))

    @property
    def job_id(self) -> str:
        """The open job, as the address names it."""
        expect(self.page).to_have_url(re.compile(r"#job=.+"))
        return self.page.url.partition("#job=")[2]

    def job(self) -> dict[str, Any]:
        """The open job, asked of the node beside the page."""
        job: dict[str, Any] = self.page.request.get(f"{self.url}/jobs/{self.job_id}").json()
        return job

    def wait_for_the_node(self) -> None:
        """Return when the open job has ended on the node, whatever the page knows: its event stream ends then."""
        self.page.request.get(f"{self.url}/jobs/{self.job_id}/events")


def frame(event: str, event_id: str, **data: object) -> str:
    """One event as the wire carries it."""
    return f"event: {event}\nid: {event_id}\ndata: {json.dumps(data)}\n\n"


def opening(epoch: int = 7) -> str:
    """The first two events of a played job; the next one is `<epoch>-3`."""
    queued = frame(
        "queued", "0-1", job_id=PLAYED_JOB, provider="scripted", model="demo", created_at="2026-01-01T00:00:00Z"
    )
    return queued + frame("start", f"{epoch}-2", attempt=1, provider="scripted", model="demo", queue_ms=4, at_ms=4)


def ending(event_id: str, tokens: int) -> str:
    """The last event of a played job."""
    timings = {"queue_ms": 4, "ttft_ms": 9, "latency_ms": 90, "tokens_per_s": 11.5}
    return frame("done", event_id, finish_reason="stop", usage={}, tokens=tokens, attempt=1, timings=timings)


@dataclass
class PlayedNode:
    """Answers the page's event requests from a list, one connection each; the last answer is given again."""

    answers: Sequence[str | int]
    """A body, whose end is the end of the connection, or the status of a refusal."""
    jobs: Sequence[dict[str, object]] = ()
    requests: list[Request] = field(default_factory=list)

    def attach(self, page: Page) -> None:
        """Stand between the page and the node."""
        page.route(re.compile(r"/jobs(\?|$)"), lambda route: route.fulfill(json={"data": self.jobs, "next": None}))
        page.route(re.compile(r"/jobs/\w+$"), self._tell)
        page.route(re.compile(r"/jobs/\w+/events"), self._stream)

    def _tell(self, route: Route) -> None:
        refusal = {"title": "The job has expired", "detail": "Submit it again.", "code": "gone"}
        route.fulfill(status=410, content_type="application/problem+json", body=json.dumps(refusal))

    def _stream(self, route: Route) -> None:
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(route.request)
        if isinstance(answer, int):
            refusal = {"title": "Refused", "detail": "No.", "code": "unauthorized"}
            route.fulfill(status=answer, content_type="application/problem+json", body=json.dumps(refusal))
        else:
            route.fulfill(content_type="text/event-stream", body="retry: 50\n" + answer)
