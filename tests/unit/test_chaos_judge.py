"""The chaos program's judge misses nothing: each kind of wrong log and of wronged reader is told in a sentence."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chaos.judge import Log, Terms, judge_log, judge_view
from chaos.judge_readers import judge_reader, judge_without_log
from chaos.transcript import START, Id, Seen, Transcript, Visit

SAID = {1: ["one ", "two ", "three"], 2: ["uno ", "dos 🌊 ", "tres"]}
TERMS = Terms("restart", lambda attempt, kept: ["".join(SAID[attempt])])
Entries = list[Seen]
TIMINGS = {"latency_ms": 50}


def _entry(epoch: int, seq: int, event: str, **data: Any) -> Seen:
    return Seen(Id(epoch, seq), event, data)


def _log() -> Entries:
    """Attempt 1 breaks off after two tokens, attempt 2 is whole."""
    return [
        _entry(0, 1, "queued", job_id="j"),
        _entry(7, 2, "start", attempt=1),
        _entry(7, 3, "token", text="one ", at_ms=5),
        _entry(7, 4, "token", text="two "),
        _entry(9, 5, "reset", attempt=2, keep=0, reason="worker_lost"),
        _entry(9, 6, "start", attempt=2),
        _entry(9, 7, "token", text="uno ", at_ms=9),
        _entry(9, 8, "token", text="dos 🌊 "),
        _entry(9, 9, "token", text="tres"),
        _entry(9, 10, "done", attempt=2, tokens=3, timings=TIMINGS),
    ]


def _end(epoch: int, event: str, **data: Any) -> Seen:
    return _entry(epoch, 10, event, attempt=2, timings=TIMINGS, **data)


def _change(place: int, **data: Any) -> Callable[[Entries], Entries]:
    def change(log: Entries) -> Entries:
        return [*log[:place], log[place]._replace(data={**log[place].data, **data}), *log[place + 1 :]]

    return change


def _second_end(log: Entries) -> Entries:
    return [*log, _entry(12, 11, "cancelled", reason="user", timings=TIMINGS)]


def _event_after_the_end(log: Entries) -> Entries:
    return [*log, _entry(9, 11, "token", text="!")]


def _renumber(log: Entries) -> Entries:
    return [entry._replace(id=Id(entry.id.epoch if entry.id else 0, at + 1)) for at, entry in enumerate(log)]


def test_a_sound_log_gives_no_cause_for_complaint() -> None:
    assert judge_log(Log(_log()), TERMS) == []


@pytest.mark.parametrize(("wrong", "complaint"), [
    (lambda log: log[:7] + log[8:], "seq must rise by exactly 1"),
    (lambda log: _renumber(log[:7] + log[8:]), "the provider says otherwise"),
    (lambda log: _renumber([*log[:8], log[7], *log[8:]]), "the provider says otherwise"),
    (_change(7, text="dos "), "the provider says otherwise"),
    (_change(3, text="too "), "attempt 1 says"),
    (_second_end, "terminal events"),
    (_event_after_the_end, "terminal events"),
    (lambda log: log[:-1], "terminal events"),
    (lambda log: [*log[:8], log[8]._replace(id=Id(7, 9)), log[9]], "an older epoch appears"),
    (lambda log: [*log[:8], log[8]._replace(id=Id(11, 9)), log[9]._replace(id=Id(11, 10))], "a new epoch begins with"),
    (lambda log: [*log[:4], log[4]._replace(id=Id(7, 5)), *log[5:]], "begins within an epoch"),
    (_change(4, keep=3), "keeps 3 code points instead of 0"),
    (_change(4, reason="storage_failover"), "lost a claim"),
    (_change(5, attempt=3), "attempt 3 instead of 2"),
    (_change(9, tokens=4), "counts 4 tokens"),
    (lambda log: [*log[:9], _end(11, "cancelled", reason="user")], "nobody asked for it"),
    (lambda log: [*log[:9], _end(11, "failed", code="poisoned")], "poisoned without cause"),
    (lambda log: [*log[:9], _end(9, "failed", code="deadline_exceeded")], "without cause"),
])  # fmt: skip
def test_a_wrong_log_is_told(wrong: Callable[[Entries], Entries], complaint: str) -> None:
    assert any(complaint in line for line in judge_log(Log(wrong(_log())), TERMS))


def test_a_continued_answer_keeps_every_code_point() -> None:
    terms = Terms("continue", lambda attempt, kept: ["".join(SAID[attempt])])
    kept = _change(4, keep=len("one two "))(_log())

    assert judge_log(Log(kept), terms) == []
    assert Log(kept).text == "one two uno dos 🌊 tres"
    assert any("instead of 8" in line for line in judge_log(Log(_log()), terms))


def test_a_job_that_must_not_be_started_again_is_told_when_it_was() -> None:
    assert any("on_interrupt=fail" in line for line in judge_log(Log(_log()), replace(TERMS, on_interrupt="fail")))


def test_a_terminal_event_that_came_too_late_is_told() -> None:
    assert judge_log(Log(_log()), replace(TERMS, within_ms=50)) == []
    assert any("after the POST" in line for line in judge_log(Log(_log()), replace(TERMS, within_ms=49)))


def test_a_shown_job_that_is_not_its_log_is_told() -> None:
    view = {"text": "uno dos 🌊 tres", "status": "done", "last_event_id": "9-10"}

    assert judge_view(Log(_log()), view) == []
    assert judge_view(Log(_log()), {**view, "text": "uno dos  tres"}) != []
    assert judge_view(Log(_log()), {**view, "last_event_id": "9-9"}) != []


def _read(dialect: str, *visits: Visit, finish: str = "terminal") -> Transcript:
    return Transcript("j", dialect, "steady", list(visits), finish)


def _joined() -> Entries:
    """What a coalesced reader gets."""
    log = _log()
    text = {"text": "uno dos 🌊 tres", "n": 3, "at_ms": 9}
    return [*log[:6], Seen(Id(9, 9), "token", text), log[9]]


def test_whole_readings_give_no_cause_for_complaint() -> None:
    log = _log()
    for transcript in (
        _read("exact", Visit(0, START, log, "whole")),
        _read("native", Visit(0, START, _joined(), "whole")),
        _read("exact", Visit(0, START, log[:4], "broken"), Visit(1, Id(7, 4), log[4:], "whole")),
        _read("native", Visit(0, "$", [_snapshot("one two "), *log[4:]], "whole")),
        _read("native", Visit(0, START, log[:2], "left"), finish="left"),
        _read("native", Visit(0, START, log, "broken"), Visit(1, Id(9, 10), [], "nothing"), finish="nothing"),
    ):
        assert judge_reader(transcript, Log(log)) == []


def _snapshot(text: str) -> Seen:
    return _entry(7, 4, "reset", attempt=1, keep=0, reason="snapshot", text=text, snapshot=True)


@pytest.mark.parametrize(("wrong", "complaint"), [
    (lambda log: log[:3] + log[4:], "events were lost"),
    (lambda log: [*log[:4], log[3], *log[4:]], "events were doubled"),
    (_change(6, text="Uno "), "in the log"),
    (_change(6, at_ms=8), "in the log"),
    (lambda log: [*log[:6], log[6]._replace(id=Id(8, 7)), *log[7:]], "the log does not hold it"),
    (lambda log: log[:-1], "the end came at"),
    (lambda log: [*log[:6], *_joined()[6:]], "for an exact reader"),
    (lambda log: [*log[:4], _snapshot("one two "), *log[4:]], "a snapshot at"),
])  # fmt: skip
def test_a_wronged_reader_is_told(wrong: Callable[[Entries], Entries], complaint: str) -> None:
    transcript = _read("exact", Visit(0, START, wrong(_log()), "whole"))
    assert any(complaint in line for line in judge_reader(transcript, Log(_log())))


def test_what_is_lost_or_doubled_between_two_connections_is_told() -> None:
    log = _log()
    for rest, complaint in ((log[5:], "lost"), (log[3:], "doubled")):
        transcript = _read("exact", Visit(0, START, log[:4], "broken"), Visit(1, Id(7, 4), rest, "whole"))
        assert any(complaint in line for line in judge_reader(transcript, Log(log)))


def test_a_joined_frame_that_is_not_what_it_joins_is_told() -> None:
    for data in ({"text": "uno dos tres", "n": 3, "at_ms": 9}, {"text": "uno dos 🌊 tres", "n": 2, "at_ms": 9}):
        frames = [*_joined()[:6], Seen(Id(9, 9), "token", data), _log()[9]]
        assert judge_reader(_read("native", Visit(0, START, frames, "whole")), Log(_log())) != []


def test_a_snapshot_that_is_not_what_the_log_shows_is_told() -> None:
    transcript = _read("native", Visit(0, "$", [_snapshot("one "), *_log()[4:]], "whole"))
    assert any("is not what the log shows" in line for line in judge_reader(transcript, Log(_log())))


def test_a_reader_that_never_gets_to_the_end_is_told() -> None:
    transcript = _read("exact", Visit(0, START, _log()[:4], "broken"), finish="")
    assert any("never got to the end" in line for line in judge_reader(transcript, Log(_log())))


def _chat(*texts: tuple[int, int, str]) -> Entries:
    return [Seen(Id(epoch, seq), "message", {"token": text}) for epoch, seq, text in texts]


END = Seen(Id(9, 10), "message", {"token": "", "done": True})
CUT = Seen(Id(9, 5), "message", {"error": "The answer was restarted", "done": True})


def test_a_dialect_that_cannot_take_text_back_is_judged_by_what_it_has_sent() -> None:
    after = [*_chat((9, 7, "uno "), (9, 8, "dos 🌊 "), (9, 9, "tres")), END]
    for transcript in (
        _read("chat", Visit(0, START, after, "whole")),
        _read("chat", Visit(0, START, [*_chat((7, 3, "one ")), CUT], "interrupted"), Visit(1, START, after, "whole")),
    ):
        assert judge_reader(transcript, Log(_log())) == []
    for visit, complaint in (
        (Visit(0, START, [*_chat((7, 3, "one ")), *after], "whole"), "was sent, the log shows"),
        (Visit(0, START, [*after[:1], *after[2:]], "whole"), "was sent, the log shows"),
        (Visit(0, START, after[:2], "whole"), "looks like success"),
        (Visit(0, START, [CUT], "interrupted"), "although nothing was taken back"),
    ):
        assert any(complaint in line for line in judge_reader(_read("chat", visit), Log(_log()))), complaint


def test_readers_of_an_erased_log_are_held_against_each_other() -> None:
    log = _log()
    sound = [_read("exact", Visit(0, START, log[:6], "whole"), finish="gone") for _ in range(2)]
    assert judge_without_log(sound) == []
    other = _read("exact", Visit(0, START, _change(3, text="2 ")(log[:6]), "whole"), finish="gone")
    assert any("two payloads" in line for line in judge_without_log([sound[0], other]))
    holed = _read("exact", Visit(0, START, log[:3] + log[4:6], "whole"), finish="gone")
    assert any("lost or doubled" in line for line in judge_without_log([holed]))
