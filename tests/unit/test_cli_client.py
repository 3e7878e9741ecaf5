"""The client commands against a scripted node: exit codes, stdout and stderr, the terminal, the way back."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console
from tailrace_client import Event, EventId, Reconnect, Transcript
from typer.testing import CliRunner, Result

from cli.main import app
from cli.render import Screen
from tests.support.fake_node import (
    HANG_UP,
    NO_CONTENT,
    End,
    FakeNode,
    a_job,
    an_answer,
    answer,
    events,
    frame,
    in_a_thread,
    problem,
)

pytestmark = pytest.mark.timeout(60)

EVENTS = "GET /jobs/j1/events"
ANSWER = an_answer("Wa", "ter")
FAILED = frame("failed", "7-3", code="provider_timeout", message="too slow", retryable=True, attempt=1, timings={})
CANCELLED = frame("cancelled", "7-3", reason="cancelled", attempt=1, timings={})
Run = Callable[..., Result]


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with in_a_thread(FakeNode()) as running:
        yield running


@pytest.fixture
def run(node: FakeNode) -> Run:
    def invoke(*args: str, stdin: str = "") -> Result:
        env = {"TAILRACE_URL": node.url, "TAILRACE_API_KEY": "k", "COLUMNS": "200", "TERM": "dumb"}
        return CliRunner(env=env).invoke(app, args, input=stdin)

    return invoke


# -- submit


def test_submit_writes_the_answer_and_nothing_else_to_a_pipe(node: FakeNode, run: Run) -> None:
    node.on("POST /jobs", events(*ANSWER, job_id="j1"))
    result = run("submit", "hi")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Water\n", "")
    assert node.asked[0].headers["authorization"] == "Bearer k"


def test_submit_writes_into_a_pipe_only_what_survives_a_restart(node: FakeNode, run: Run) -> None:
    restart = [
        frame("reset", "9-5", attempt=2, keep=0, reason="worker_lost"),
        frame("start", "9-6", attempt=2, provider="scripted", model="m", queue_ms=1),
        frame("token", "9-7", text="Eau\n"),
        frame("done", "9-8", finish_reason="stop", tokens=1, attempt=2),
    ]
    node.on("POST /jobs", events(*ANSWER[:4], *restart, job_id="j1"))
    assert run("submit", "hi").stdout == "Eau\n"


def test_submit_sends_every_option_as_the_contract_names_it(node: FakeNode, run: Run) -> None:
    node.on("POST /jobs", events(*ANSWER, job_id="j1"))
    options = [
        *("--provider", "openai", "--model", "gpt", "--system", "brief", "--max-tokens", "9", "--temperature", "0.5"),
        *("--param", "top_p=0.1", "--param", 'stop=["x"]', "--param", "reasoning=high", "--metadata", "a=b=c"),
        *("--priority", "9", "--ttl-s", "60", "--on-interrupt", "continue", "--idempotency-key", "mine"),
    ]
    assert run("submit", "hi", *options).exit_code == 0
    assert node.asked[0].headers["idempotency-key"] == "mine"
    assert json.loads(node.asked[0].body) == {
        "provider": "openai",
        "model": "gpt",
        "prompt": "hi",
        "system": "brief",
        "max_tokens": 9,
        "temperature": 0.5,
        "params": {"top_p": 0.1, "stop": ["x"], "reasoning": "high"},
        "metadata": {"a": "b=c"},
        "priority": 9,
        "ttl_s": 60,
        "on_interrupt": "continue",
    }


@pytest.mark.parametrize("argument", [[], ["-"]])
def test_submit_reads_the_prompt_from_stdin(node: FakeNode, run: Run, argument: list[str]) -> None:
    node.on("POST /jobs", events(*ANSWER, job_id="j1"))
    assert run("submit", *argument, stdin="why?\nbecause").exit_code == 0
    assert json.loads(node.asked[0].body)["prompt"] == "why?\nbecause"


def test_submit_json_is_one_event_a_line_across_a_break(node: FakeNode, run: Run) -> None:
    node.on("POST /jobs", events(*ANSWER[:3], end=End.BROKEN, job_id="j1"))
    node.on(EVENTS, events(*ANSWER[3:]))
    result = run("submit", "hi", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["id"], line["event"]) for line in lines] == [
        ("0-1", "queued"),
        ("7-2", "start"),
        ("7-3", "token"),
        ("7-4", "token"),
        ("7-5", "done"),
    ]
    assert lines[3]["data"] == {"text": "ter"}
    assert (result.exit_code, result.stderr) == (0, "")


def test_submit_detached_prints_the_id_and_leaves(node: FakeNode, run: Run) -> None:
    node.on("POST /jobs", answer(a_job(status="queued"), 202, Location="/jobs/j1"))
    assert run("submit", "hi", "--detach").stdout == "j1\n"
    assert json.loads(run("submit", "hi", "--detach", "--json").stdout)["status"] == "queued"


@pytest.mark.parametrize(("last", "word"), [(FAILED, "too slow (provider_timeout)"), (CANCELLED, "cancelled")])
def test_a_job_that_does_not_end_well_is_exit_code_1_and_says_why(
    node: FakeNode, run: Run, last: bytes, word: str
) -> None:
    node.on("POST /jobs", events(*ANSWER[:2], last, job_id="j1"))
    result = run("submit", "hi")
    assert result.exit_code == 1
    assert word in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["submit", "hi", "--param", "top_p"],
        ["submit", "hi", "--provider", "openai"],
        ["submit", "hi", "--priority", "10"],
        ["submit", "hi", "--on-interrupt", "hope"],
        ["submit", "hi", "--url", "localhost:8080"],
        ["tail", "j1", "--after", "yesterday"],
        ["tail"],
        ["jobs", "--status", "sleeping"],
        ["no-such-command"],
    ],
)
def test_a_command_line_that_makes_no_sense_is_exit_code_2_and_nothing_is_sent(
    node: FakeNode, run: Run, args: list[str]
) -> None:
    assert run(*args).exit_code == 2
    assert node.asked == []


@pytest.mark.parametrize("args", [["submit", "hi"], ["submit", "hi", "--detach"], ["show", "j1"]])
def test_a_server_that_cannot_be_reached_is_exit_code_3(
    node: FakeNode, run: Run, args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real waits between tries are what a user sits through; here they are nothing.
    monkeypatch.setattr("tailrace_client.patience._FIRST_S", 0.0)
    node.on("POST /jobs", HANG_UP)
    node.on("GET /jobs/j1", HANG_UP)
    result = run(*args)
    assert result.exit_code == 3
    assert result.stderr.startswith("tailrace: ")
    assert result.stdout == ""


@pytest.mark.parametrize("args", [["tail", "j1"], ["show", "j1"], ["cancel", "j1"]])
@pytest.mark.parametrize(("status", "code"), [(404, "not_found"), (410, "gone")])
def test_a_job_that_is_not_there_is_exit_code_4(
    node: FakeNode, run: Run, args: list[str], status: int, code: str
) -> None:
    for call in (EVENTS, "GET /jobs/j1", "POST /jobs/j1/cancel"):
        node.on(call, problem(status, code, "no such job"))
    result = run(*args)
    assert (result.exit_code, result.stderr) == (4, f"tailrace: no such job ({code}, HTTP {status})\n")


def test_a_refusal_is_exit_code_5_and_names_the_field(node: FakeNode, run: Run) -> None:
    node.on("POST /jobs", problem(400, "unsupported_param", "not allowed", field="params.n"))
    result = run("submit", "hi", "--param", "n=2")
    assert (result.exit_code, result.stderr) == (
        5,
        "tailrace: params.n: not allowed (unsupported_param, HTTP 400)\n",
    )
    node.on(EVENTS, problem(401, "unauthorized"))
    assert run("tail", "j1").exit_code == 5


# -- tail, show, jobs, cancel, version


def test_tail_goes_on_behind_the_cursor(node: FakeNode, run: Run) -> None:
    node.on(EVENTS, events(*ANSWER[3:]))
    result = run("tail", "j1", "--after", "7-3")
    assert (result.exit_code, result.stdout) == (0, "ter\n")
    assert node.asked[0].cursor == "7-3"


@pytest.mark.parametrize(("status", "exit_code"), [("done", 0), ("failed", 1), ("cancelled", 1)])
def test_tail_behind_the_last_event_still_tells_how_the_job_ended(
    node: FakeNode, run: Run, status: str, exit_code: int
) -> None:
    node.on(EVENTS, NO_CONTENT)
    node.on("GET /jobs/j1", answer(a_job(status=status)))
    assert run("tail", "j1", "--after", "7-5").exit_code == exit_code


def test_show_prints_the_job_and_its_text(node: FakeNode, run: Run) -> None:
    job = a_job(text="Water", timings={"queue_ms": 3.0, "ttft_ms": 250.4}, metadata={"a": "b"})
    node.on("GET /jobs/j1", answer(job))
    shown = run("show", "j1").stdout
    assert "status       done" in shown
    assert "queued 3 ms · first token 250 ms" in shown
    assert shown.endswith("\nWater\n")
    assert json.loads(run("show", "j1", "--json").stdout) == job


def test_jobs_prints_a_table_a_row_a_job_and_where_the_rest_is(node: FakeNode, run: Run) -> None:
    page = {"data": [a_job("j2", "running", model="[red]m"), a_job("j1")], "next": "n1"}
    node.on("GET /jobs", answer(page))
    result = run("jobs", "--status", "running", "--limit", "2")
    rows = result.stdout.splitlines()
    assert [row.split()[:4] for row in rows[1:]] == [
        ["j2", "running", "scripted", "[red]m"],
        ["j1", "done", "scripted", "m"],
    ]
    assert result.stderr == "More: tailrace jobs --after n1\n"
    assert node.asked[0].query == {"status": "running", "limit": "2"}
    assert json.loads(run("jobs", "--json").stdout) == page


def test_cancel_says_how_the_job_stands_now(node: FakeNode, run: Run) -> None:
    node.on("POST /jobs/j1/cancel", answer(a_job(status="cancelled")))
    assert run("cancel", "j1").stdout == "j1 cancelled\n"


def test_version_names_both_distributions(run: Run) -> None:
    assert run("version").stdout.startswith("tailrace 0.")


def test_the_server_can_be_named_before_and_after_the_command(node: FakeNode, run: Run) -> None:
    node.on("GET /jobs/j1", answer(a_job()))
    assert CliRunner(env={"TAILRACE_URL": None}).invoke(app, ["--url", node.url, "show", "j1"]).exit_code == 0
    assert run("--url", "http://nowhere.invalid", "show", "j1", "--url", node.url, "--api-key", "q").exit_code == 0
    assert [asked.headers.get("authorization") for asked in node.asked] == [None, "Bearer q"]


@pytest.mark.parametrize("command", ["submit", "tail", "show", "jobs", "cancel"])
def test_every_command_explains_itself_with_an_example_and_the_exit_codes(run: Run, command: str) -> None:
    shown = run(command, "--help").stdout
    assert f"tailrace {command}" in shown
    assert "Exit codes" in shown


def test_the_command_starts_without_importing_what_only_some_commands_need() -> None:
    heavy = {"httpx2", "rich", "pydantic", "fastapi", "redis", "arq", "openai", "anthropic", "tailrace_client"}
    code = "import sys, cli.main; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert heavy & set(loaded) == set()


# -- Ctrl-C


# A shell has what it starts in the background ignore SIGINT, and so would all that this suite starts there.
_HEEDING_SIGINT = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('cli.main', run_name='__main__')"
)


def interrupt(node: FakeNode, *args: str, when: bytes | None) -> tuple[int, str]:
    """Run the real command, interrupt it once a line with `when` is out (None: once the node was asked)."""
    env = {**os.environ, "TAILRACE_URL": node.url}
    command = [sys.executable, "-c", _HEEDING_SIGINT, *args]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if when is None:
            assert node.next_asked.wait(30)
        else:
            while when not in process.stdout.readline():
                pass
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
        return process.wait(30), said


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(node: FakeNode) -> None:
    node.on("POST /jobs", events(*ANSWER[:3], end=End.OPEN, job_id="j1"))
    code, said = interrupt(node, "submit", "hi", "--json", when=b"token")
    assert code == 130
    assert "tailrace tail j1 --after 7-3" in said
    assert "Traceback" not in said
    assert node.times("POST /jobs/j1/cancel") == 0


def test_ctrl_c_before_the_job_has_an_id_names_the_key_that_finds_it(node: FakeNode) -> None:
    node.on("POST /jobs", events(end=End.OPEN))
    code, said = interrupt(node, "submit", "hi", "--idempotency-key", "mine", when=None)
    assert code == 130
    assert "--idempotency-key mine" in said


# -- the terminal


class Seen:
    """A screen, and what has been written to it."""

    def __init__(self) -> None:
        self._out, self._notes = io.StringIO(), io.StringIO()
        self.screen = Screen(Console(file=self._out, highlight=False), Console(file=self._notes, highlight=False))

    def show(self, kind: str, **data: object) -> None:
        self.screen.show(Event(kind, data, EventId(7, 1)))

    @property
    def out(self) -> str:
        return self._out.getvalue()

    @property
    def notes(self) -> str:
        return self._notes.getvalue()


def test_the_screen_shows_tokens_as_they_are_and_does_not_wrap_or_read_markup() -> None:
    seen = Seen()
    text = "[bold]x[/bold] " * 20
    seen.show("token", text=text)
    seen.screen.close(Transcript())
    assert seen.out == text + "\n"


def test_the_screen_says_that_an_answer_starts_afresh() -> None:
    seen = Seen()
    seen.show("token", text="Wat")
    seen.show("reset", keep=0, attempt=2, reason="worker_lost")
    seen.show("token", text="Eau")
    assert seen.out == "Wat\nEau"
    assert "the answer starts afresh (worker_lost, attempt 2)" in seen.notes


@pytest.mark.parametrize(
    "reset",
    [
        {"keep": 3, "attempt": 2, "reason": "worker_lost"},
        {"keep": 0, "attempt": 1, "reason": "cursor", "text": "Wat", "snapshot": True},
    ],
)
def test_the_screen_goes_on_quietly_where_nothing_shown_is_taken_back(reset: dict[str, object]) -> None:
    seen = Seen()
    seen.show("token", text="Wat")
    seen.show("reset", **reset)
    seen.show("token", text="er")
    assert (seen.out, seen.notes) == ("Water", "")


def test_the_screen_does_not_let_a_model_steer_the_terminal() -> None:
    seen = Seen()
    seen.show("token", text="\x1b[2J\x07\x9b31m\tok\n")
    assert seen.out == "␛[2J␇�31m\tok\n"


def test_the_screen_keeps_quiet_about_a_quick_resume_and_not_about_a_long_one() -> None:
    seen = Seen()
    seen.screen.reconnecting(Reconnect("ReadError", "7-3", 0, 0.2))
    assert seen.notes == ""
    seen.screen.reconnecting(Reconnect("ConnectError", "7-3", 1, 2.0))
    assert seen.notes == "ConnectError; trying again in 2.0 s\n"


def test_the_screen_sets_reasoning_and_tool_calls_apart_and_sums_up() -> None:
    seen = Seen()
    seen.show("queued", job_id="j1")
    seen.show("start", attempt=1)
    seen.show("reasoning", text="hm")
    seen.show("tool_call", index=0, name="f", arguments="{")
    seen.show("tool_call", index=0, name="", arguments="}")
    seen.show("token", text="Water")
    seen.show("done", finish_reason="stop", tokens=1, attempt=2, timings={"ttft_ms": 12.0, "tokens_per_s": 3.0})
    assert seen.out == "hm\nf {}\nWater\n"
    assert seen.notes == "job j1\ndone (stop) · 1 token · attempt 2 · first token 12 ms · at 3.0 tokens/s\n"
