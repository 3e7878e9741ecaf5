"""The judge of logs: what is wrong with a finished job's log, by the contract and by what the provider says. Pure.

Invariants 2, 3 and 4 of DESIGN §2. Every complaint is one sentence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chaos.transcript import START, TERMINAL, Id, Seen

MAX_ATTEMPTS = 5
MAX_CRASHES = 3

AttemptText = Callable[[int, str], list[str]]
"""(attempt, text kept) → the texts that the provider may say in it, whole."""


@dataclass(frozen=True)
class Terms:
    """What was agreed about a job, beyond its log. `may_fail_with`: codes of failures that its plan asks for."""

    on_interrupt: str
    says: AttemptText
    may_fail_with: frozenset[str] = frozenset()
    cancelled: bool = False
    within_ms: float = float("inf")
    """When the terminal event has to be there, counted from the POST."""


@dataclass
class Log:
    """A finished job's log as `exact` replay shows it."""

    entries: list[Seen]
    _folded: tuple[int, str] = (0, "")
    """How many entries were folded last, and what they show: the next question is mostly about the next entry."""

    def shown(self, count: int) -> str:
        """The text that a reader shows after the first `count` entries."""
        done, text = self._folded if self._folded[0] <= count else (0, "")
        for entry in self.entries[done:count]:
            if entry.event == "token":
                text += entry.data["text"]
            elif entry.event == "reset":
                text = text[: entry.data["keep"]] + entry.data.get("text", "")
        self._folded = (count, text)
        return text

    @property
    def text(self) -> str:
        """The text at its end."""
        return self.shown(len(self.entries))

    def at(self, event_id: Id) -> int | None:
        """The place of an entry; None where the log does not hold this id."""
        place = event_id.seq - 1
        return place if 0 <= place < len(self.entries) and self.entries[place].id == event_id else None


def judge_log(log: Log, terms: Terms) -> list[str]:
    """Complaints about the log itself."""
    return [*_order(log.entries), *_ends(log.entries, terms), *_attempts(log, terms)]


def _order(entries: list[Seen]) -> list[str]:
    bad: list[str] = []
    before = START
    for place, entry in enumerate(entries):
        if entry.id is None:
            bad.append(f"an entry without an id: {entry}")
            continue
        again = entry.id.epoch == before.epoch
        if entry.id.seq != before.seq + 1:
            bad.append(f"{entry.id} follows {before}: seq must rise by exactly 1")
        if entry.id.epoch < before.epoch:
            bad.append(f"{entry.id} follows {before}: an older epoch appears")
        if entry.event in ("start", "reset") and again and entries[place - 1].event != "reset":
            bad.append(f"{entry.id}: an attempt begins within an epoch")
        if entry.event not in ("start", "reset", "cancelled", "failed") and not again:
            bad.append(f"{entry.id}: a new epoch begins with {entry.event}")
        before = entry.id
    if entries and (entries[0].id, entries[0].event) != (Id(0, 1), "queued"):
        bad.append(f"the log begins with {entries[0].id} {entries[0].event}")
    return bad


def _ends(entries: list[Seen], terms: Terms) -> list[str]:
    ends = [entry for entry in entries if entry.event in TERMINAL]
    if len(ends) != 1 or entries[-1] is not ends[0]:
        return [f"terminal events: {[f'{entry.id} {entry.event}' for entry in ends]} of {len(entries)} entries"]
    end = ends[0]
    if end.data["timings"]["latency_ms"] > terms.within_ms:
        return [f"the terminal event came {end.data['timings']['latency_ms']} ms after the POST"]
    if end.event == "cancelled" and not terms.cancelled:
        return ["cancelled, but nobody asked for it"]
    return _failure(entries, end, terms) if end.event == "failed" else []


def _failure(entries: list[Seen], end: Seen, terms: Terms) -> list[str]:
    code = end.data["code"]
    resets = [entry.data["reason"] for entry in entries if entry.event == "reset"]
    shown = any(entry.event == "token" for entry in entries)
    just = {
        # One more where it was pardoned one (docs/decisions/0016).
        "poisoned": resets.count("worker_lost") in (MAX_CRASHES - 1, MAX_CRASHES),
        "attempts_exhausted": end.data["attempt"] == MAX_ATTEMPTS,
        "worker_lost": terms.on_interrupt == "fail" and shown,
    }.get(code, code in terms.may_fail_with)
    return [] if just else [f"failed with {code} without cause (resets: {resets})"]


def _attempts(log: Log, terms: Terms) -> list[str]:
    """Each attempt says what the provider says in it, keeps what it has to, and is counted rightly."""
    bad: list[str] = []
    attempt, said, kept = 0, "", ""
    tokens = 0
    for place, entry in enumerate(log.entries):
        match entry.event:
            case "reset":
                before = log.shown(place)
                bad += [*_said(attempt, said, kept, terms, whole=False), *_reset(entry, before, terms)]
                kept = before[: entry.data["keep"]]
            case "start":
                attempt += 1
                said, tokens = "", 0
                if entry.data["attempt"] != attempt:
                    bad.append(f"{entry.id} is attempt {entry.data['attempt']} instead of {attempt}")
            case "token":
                said += entry.data["text"]
                tokens += 1
            case "done":
                bad += _said(attempt, said, kept, terms, whole=True)
                if (entry.data["attempt"], entry.data["tokens"]) != (attempt, tokens):
                    bad.append(f"{entry.id} counts {entry.data['tokens']} tokens in attempt {entry.data['attempt']}")
                return bad
    return bad + _said(attempt, said, kept, terms, whole=False)


def _reset(entry: Seen, before: str, terms: Terms) -> list[str]:
    """Complaints about how much of the text shown before a reset keeps, and about its being there at all."""
    bad: list[str] = []
    want = len(before) if terms.on_interrupt == "continue" else 0
    if terms.on_interrupt == "fail" and before:
        bad.append(f"{entry.id}: a new attempt after content, against on_interrupt=fail")
    if entry.data["keep"] != want:
        bad.append(f"{entry.id} keeps {entry.data['keep']} code points instead of {want}")
    if entry.data["reason"] == "storage_failover":
        bad.append(f"{entry.id}: the store lost a claim that it had acknowledged")
    return bad


def _said(attempt: int, said: str, kept: str, terms: Terms, *, whole: bool) -> list[str]:
    if not attempt or (not said and not whole):
        return []
    known = terms.says(attempt, kept)
    if any(text == said if whole else text.startswith(said) for text in known):
        return []
    return [f"attempt {attempt} says {said[-120:]!r} ({len(said)} code points), the provider says otherwise"]


def judge_view(log: Log, view: dict[str, Any]) -> list[str]:
    """Complaints about GET /jobs/{id} of a finished job."""
    end = log.entries[-1]
    bad = []
    if view["text"] != log.text:
        bad.append("the job's text is not that of its log")
    if (view["status"], view["last_event_id"]) != (end.event, str(end.id)):
        bad.append(f"the job is {view['status']} at {view['last_event_id']}, its log {end.event} at {end.id}")
    return bad
