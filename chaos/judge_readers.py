"""The judge of readers: what is wrong with what one of them got, measured by the final log. Pure.

Invariants 1, 2 and 4 of DESIGN §2, connection by connection and frame by frame.
"""

from typing import Any

from chaos.judge import Log
from chaos.transcript import START, Id, Seen, Transcript, Visit


def judge_reader(transcript: Transcript, log: Log) -> list[str]:
    """Complaints about what one reader got."""
    native = transcript.dialect in ("native", "exact", "client")
    bad = list(transcript.notes)
    shown = ""
    for number, visit in enumerate(transcript.visits):
        if visit.cursor in (START, "$"):
            shown = ""
        if native:
            bad += _native(visit, log, exact=transcript.dialect == "exact")
        else:
            complaints, shown = _chat(visit, log, shown)
            bad += complaints
        bad += _end(visit, transcript, log, last=number == len(transcript.visits) - 1)
    if not transcript.finish:
        bad.append("a reader that kept coming back never got to the end")
    return [f"reader {transcript.dialect}/{transcript.manner}: {complaint}" for complaint in bad]


def _native(visit: Visit, log: Log, *, exact: bool) -> list[str]:
    cursor = visit.cursor if isinstance(visit.cursor, Id) else None
    for frame in visit.frames:
        if frame.id is None:
            return [f"a {frame.event} without an id: {frame.data}"]
        n = frame.data.get("n", 1)
        place = log.at(frame.id)
        if place is None:
            return [f"{frame.id} {frame.event}: the log does not hold it"]
        if frame.data.get("snapshot"):
            if cursor is not None:
                return [f"a snapshot at {frame.id} for a cursor that the log holds ({cursor})"]
            if (frame.data["text"], frame.data["keep"]) != (log.shown(place + 1), 0):
                return [f"the snapshot at {frame.id} is not what the log shows there"]
        elif cursor is not None and frame.id.seq != cursor.seq + n:
            word = "doubled" if frame.id.seq <= cursor.seq else "lost"
            return [f"{frame.id} after {cursor}: events were {word}"]
        elif exact and n != 1:
            return [f"{frame.id} joins {n} events for an exact reader"]
        elif (wanted := _joined(log.entries[place - n + 1 : place + 1])) != (frame.event, frame.data):
            return [f"{frame.id} is {frame.event} {frame.data}, in the log {wanted}"]
        cursor = frame.id
    return []


def _joined(entries: list[Seen]) -> tuple[str, dict[str, Any]] | None:
    """Adjacent entries as one frame; None where they may not be joined."""
    first = entries[0]
    if len(entries) == 1:
        return first.event, first.data
    if any(
        (entry.event, entry.id and entry.id.epoch) != (first.event, first.id and first.id.epoch) for entry in entries
    ):
        return None
    data: dict[str, Any] = {"text": "".join(entry.data["text"] for entry in entries), "n": len(entries)}
    times = [entry.data["at_ms"] for entry in entries if "at_ms" in entry.data]
    return first.event, data | ({"at_ms": times[0]} if times else {})


def _chat(visit: Visit, log: Log, shown: str) -> tuple[list[str], str]:
    """A dialect that cannot take text back: what was sent so far is what the log shows, at every frame."""
    for frame in visit.frames:
        shown += frame.data.get("token", "")
        place = log.at(frame.id) if frame.id is not None else None
        if frame.id is not None and place is None:
            return [f"{frame.id}: the log does not hold it"], shown
        if visit.end == "interrupted" and frame is visit.frames[-1]:
            if place is None or log.entries[place].event != "reset" or log.shown(place + 1).startswith(shown):
                return [f"{frame.id}: cut off although nothing was taken back"], shown
        elif place is not None and shown != log.shown(place + 1):
            return [f"at {frame.id} {shown[-80:]!r} was sent, the log shows {log.shown(place + 1)[-80:]!r}"], shown
    return [], shown


def judge_without_log(transcripts: list[Transcript]) -> list[str]:
    """Complaints about what readers got of a job whose log is erased: each other's events are the measure."""
    bad: list[str] = []
    payloads: dict[Id, tuple[str, dict[str, Any]]] = {}
    for transcript in transcripts:
        bad += transcript.notes
        if transcript.dialect not in ("native", "exact", "client"):
            continue
        for visit in transcript.visits:
            cursor = visit.cursor if isinstance(visit.cursor, Id) else None
            for frame in visit.frames:
                n = frame.data.get("n", 1)
                if frame.id is None or frame.data.get("snapshot"):
                    cursor = frame.id or cursor
                    continue
                if cursor is not None and (frame.id.seq != cursor.seq + n or frame.id.epoch < cursor.epoch):
                    bad.append(f"{frame.id} after {cursor}: events were lost or doubled")
                if n == 1 and payloads.setdefault(frame.id, (frame.event, frame.data)) != (frame.event, frame.data):
                    bad.append(f"{frame.id} has two payloads: {payloads[frame.id]} and {frame.event} {frame.data}")
                cursor = frame.id
        if not transcript.finish:
            bad.append(f"reader {transcript.dialect}/{transcript.manner} never got to an end")
    return bad


def _end(visit: Visit, transcript: Transcript, log: Log, *, last: bool) -> list[str]:
    """A stream ends properly at the terminal event, or where a native reader is sent to another node."""
    final = log.entries[-1].id
    ended = bool(visit.frames) and visit.frames[-1].id == final
    if visit.end == "whole" and not ended and transcript.dialect not in ("native", "exact", "client"):
        return ["a clean end before the terminal event: to this dialect's clients it looks like success"]
    if last and transcript.finish == "terminal" and not ended:
        return [f"the end came at {visit.frames[-1].id}, the log ends at {final}"]
    if last and transcript.finish == "nothing" and visit.cursor not in (final, "$"):
        # The client library stands for many connections: its last one may have found nothing more.
        return [] if ended else [f"204 at {visit.cursor}, the log ends at {final}"]
    if last and transcript.finish in ("gone", "lost"):
        return [f"the job was {transcript.finish} for a reader, but is there"]
    return []
