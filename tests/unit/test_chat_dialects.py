"""The tutorial's dialects: their frames to the letter, and what they do where text would have to be taken back."""

import json
from typing import Any

import pytest
from hypothesis import given, settings

from api.dialects import DIALECTS, Dialect, dialect
from api.dialects.chat import Chat
from shared.errors import CODES, TailraceError
from shared.events import Cancelled, Done, Entry, Event, EventId, Failed, Queued, Reasoning, Reset, Start, Token
from shared.transcript import fold
from tests.support.logs import logs
from tests.support.sse_reader import SseReader

TUTORIAL = ("chat", "chat-meta", "langchain")
QUEUED = Queued("j", "openai", "gpt-4o-mini", 1)
START = Start(1, "openai", "gpt-4o-mini", 3, at_ms=3)
DONE = Done("stop", {"output_tokens": 2}, 2, 1, {"latency_ms": 812, "ttft_ms": 9}, at_ms=812)
INTERRUPTED = f"{CODES['interrupted'].title}. {CODES['interrupted'].advice}"


def _entries(*events: Event) -> list[Entry]:
    return [Entry(EventId(7, seq), event) for seq, event in enumerate(events, start=1)]


def _shown(writer: Dialect, *events: Event) -> list[Any]:
    return [frame.body for frame in SseReader().feed(writer.write(_entries(*events)))]


def test_chat_frames_are_the_tutorials_with_our_ids() -> None:
    body = Chat().write(_entries(QUEUED, START, Token("Grüß "), Token("dich"), DONE))
    assert body.decode() == (
        'id: 7-3\ndata: {"token": "Grüß ", "done": false}\n\n'
        'id: 7-4\ndata: {"token": "dich", "done": false}\n\n'
        'id: 7-5\ndata: {"token": "", "done": true}\n\n'
    )


def test_chat_meta_tells_of_the_start_and_counts_at_the_end() -> None:
    writer = dialect("chat-meta")
    writer.about("gpt-4o-mini")
    assert _shown(writer, QUEUED, START, Token("a"), DONE) == [
        {"event": "start", "model": "gpt-4o-mini"},
        {"event": "token", "token": "a"},
        {"event": "done", "tokens": 2, "latency_ms": 812},
    ]


def test_langchain_frames_are_the_tutorials() -> None:
    assert _shown(dialect("langchain"), QUEUED, START, Token("a"), DONE) == [{"token": "a"}, {"done": True}]


@pytest.mark.parametrize(("name", "error"), [
    ("chat", {"error": "m", "done": True}),
    ("chat-meta", {"event": "error", "message": "m"}),
    ("langchain", {"error": "m", "done": True}),
])  # fmt: skip
def test_a_failure_ends_each_dialect_with_its_error_frame(name: str, error: dict[str, Any]) -> None:
    failed = Failed("internal", "m", True, 1, {})
    writer = dialect(name)
    assert _shown(writer, Token("a"), failed)[-1] == error
    assert writer.finished
    lost = dialect(name)
    assert [(frame.id, frame.body) for frame in SseReader().feed(lost.lost(failed))] == [(None, error)]
    assert lost.finished


@pytest.mark.parametrize("name", TUTORIAL)
def test_a_cancelled_job_does_not_look_like_a_whole_answer(name: str) -> None:
    frame = _shown(dialect(name), Token("a"), Cancelled("user", 1, {}))[-1]
    assert "cancelled" in json.dumps(frame)
    assert frame != {"token": "", "done": True}


@pytest.mark.parametrize("name", TUTORIAL)
def test_a_reset_after_sent_text_ends_the_response_with_interrupted(name: str) -> None:
    writer = dialect(name)
    frames = _shown(writer, START, Token("ab"), Reset(2, 1, "worker_lost"), Start(2, "p", "m", 1), Token("c"), DONE)
    assert INTERRUPTED in frames[-1].values()
    assert "c" not in json.dumps(frames[-1].get("token", ""))
    assert writer.finished


@pytest.mark.parametrize("name", TUTORIAL)
@pytest.mark.parametrize("kept", [2, 3])
def test_a_reset_that_keeps_all_that_was_sent_is_no_interruption(name: str, kept: int) -> None:
    writer = dialect(name)
    frames = _shown(writer, START, Token("ab"), Reset(2, kept, "worker_lost"), Start(2, "p", "m", 1), Token("c"))
    assert [frame["token"] for frame in frames if frame.get("event") != "start"] == ["ab", "c"]
    assert not writer.finished


@pytest.mark.parametrize("name", TUTORIAL)
def test_a_snapshot_before_any_text_shows_its_text(name: str) -> None:
    snapshot = Reset(2, 0, "snapshot", text="so far", snapshot=True)
    frames = _shown(dialect(name), snapshot, Start(2, "p", "m", 1), Token("c"))
    assert [frame["token"] for frame in frames if frame.get("event") != "start"] == ["so far", "c"]


def test_a_stream_that_begins_with_a_snapshot_says_its_start_once() -> None:
    writer = dialect("chat-meta")
    writer.about("gpt-4o-mini")
    snapshot = Reset(2, 0, "snapshot", text="so far", snapshot=True)
    frames = _shown(writer, snapshot, Start(2, "openai", "gpt-4o-mini", 1))
    assert frames == [{"event": "start", "model": "gpt-4o-mini"}, {"event": "token", "token": "so far"}]


def test_an_id_comes_with_the_last_frame_of_what_it_stands_for() -> None:
    body = dialect("chat-meta").write(_entries(Reset(2, 0, "snapshot", text="so far", snapshot=True)))
    assert [frame.id for frame in SseReader().feed(body)] == [None, "7-1"]


def test_a_reader_that_comes_back_gets_no_second_start() -> None:
    writer = dialect("chat-meta")
    writer.resume(0, started=True)
    assert _shown(writer, Reset(2, 0, "worker_lost"), Start(2, "p", "m", 1)) == []


@pytest.mark.parametrize(("sent", "interrupted"), [(0, False), (1, True), (3, True)])
def test_text_from_an_earlier_response_counts_as_sent(sent: int, interrupted: bool) -> None:
    writer = dialect("chat")
    writer.resume(sent, started=True)
    writer.write(_entries(Reset(2, 0, "worker_lost")))
    assert writer.finished is interrupted


def test_text_is_counted_in_code_points_as_resets_count_it() -> None:
    writer = dialect("chat")
    assert _shown(writer, Token("\U0001f642ñ"), Reset(2, 2, "worker_lost"), Token("c"))[-1]["token"] == "c"


def test_what_a_dialect_cannot_show_has_no_frame() -> None:
    assert _shown(dialect("chat"), QUEUED, START, Reasoning("hm"), Start(2, "p", "m", 1)) == []


@pytest.mark.parametrize("name", TUTORIAL)
@settings(max_examples=50)
@given(log=logs(ended=True))
def test_a_response_ends_with_the_logs_text_or_says_that_it_does_not(name: str, log: list[Entry]) -> None:
    writer = dialect(name)

    frames = [frame.body for frame in SseReader().feed(writer.write(log))]

    assert writer.finished
    if isinstance(log[-1].event, Done) and INTERRUPTED not in frames[-1].values():
        assert "".join(frame.get("token", "") for frame in frames) == fold(entry.event for entry in log).text
        assert frames[-1].get("done") is True or frames[-1]["event"] == "done"
    else:
        assert "error" in frames[-1] or frames[-1]["event"] == "error"
    assert not any("error" in frame or frame.get("done") or frame.get("event") == "done" for frame in frames[:-1])


def test_an_unknown_dialect_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TailraceError, match="native, chat, chat-meta, langchain") as caught:
        dialect("openapi")
    assert (caught.value.code, caught.value.field) == ("invalid_dialect", "dialect")


@pytest.mark.parametrize("name", TUTORIAL)
def test_exact_is_refused_where_it_means_nothing(name: str) -> None:
    with pytest.raises(TailraceError, match="native dialect alone"):
        dialect(name, exact=True)
    assert dialect("native", exact=True).shared != dialect("native").shared


@pytest.mark.parametrize("name", DIALECTS)
def test_bytes_are_shared_only_where_they_do_not_depend_on_the_response(name: str) -> None:
    writer = DIALECTS[name]()
    assert (writer.shared is not None) == writer.retracts == writer.reconnects == name.startswith("native")
