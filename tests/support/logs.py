"""Strategies for property tests: any text, any event, any log that the scripts could have written."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from shared.events import (
    Cancelled,
    Done,
    Entry,
    Event,
    EventId,
    Failed,
    Queued,
    Reasoning,
    Reset,
    Start,
    Token,
    ToolCall,
)
from shared.transcript import fold

# What has broken stream formats before: line ends of all kinds, NUL, marks, pairs, and frames within the text.
_NASTY = (
    "\r", "\n", "\r\n", "\n\n", "\u2028", "\u2029", "\x85", "\x00", "\x1e", " ", "\ufeff", "e\u0301", "\U0001f642",
    "\n\nevent: done\ndata: {}\n\n", "\r\rid: 9-9\rdata: x\r\r", ": ka\n", "retry: 1\n", '"', "\\", "\\n", "]]>",
)  # fmt: skip

TEXT = st.text(max_size=12) | st.lists(st.sampled_from(_NASTY), max_size=6).map("".join)
_count = st.integers(0, 2**53)
_at_ms = st.none() | _count
_usage = st.dictionaries(st.sampled_from(("input_tokens", "output_tokens", "reasoning_tokens")), _count)
_timings = st.dictionaries(
    st.sampled_from(("queue_ms", "ttft_ms", "latency_ms", "tokens_per_s")), _count | st.floats(0, 1e9)
)
_calls = st.lists(
    st.fixed_dictionaries({"index": st.integers(0, 9), "id": TEXT, "name": TEXT, "arguments": TEXT}), max_size=2
)

_LAST_MS = 253_402_300_799_999
"""The end of the year 9999, where RFC 3339 ends."""

QUEUED: st.SearchStrategy[Event] = st.builds(
    Queued, job_id=TEXT, provider=TEXT, model=TEXT, at_ms=st.none() | st.integers(0, _LAST_MS)
)
CONTENT: st.SearchStrategy[Event] = st.one_of(
    st.builds(Token, text=TEXT, at_ms=_at_ms),
    st.builds(Token, text=TEXT),
    st.builds(Reasoning, text=TEXT, at_ms=_at_ms),
    st.builds(ToolCall, index=st.integers(0, 3), id=TEXT, name=TEXT, arguments=TEXT, at_ms=_at_ms),
)
TERMINAL: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        Done, finish_reason=TEXT, usage=_usage, tokens=_count, attempt=_count, timings=_timings, at_ms=_at_ms
    ),
    st.builds(
        Failed,
        code=TEXT, message=TEXT, retryable=st.booleans(), attempt=_count, timings=_timings, usage=_usage, at_ms=_at_ms,
    ),
    st.builds(Cancelled, reason=TEXT, attempt=_count, timings=_timings, usage=_usage, at_ms=_at_ms),
)  # fmt: skip
_START: st.SearchStrategy[Event] = st.builds(
    Start, attempt=_count, provider=TEXT, model=TEXT, queue_ms=_count, at_ms=_at_ms
)
RESET: st.SearchStrategy[Event] = st.builds(
    Reset,
    attempt=_count,
    keep=_count,
    reason=TEXT,
    text=st.none() | TEXT,
    reasoning=st.none() | TEXT,
    tool_calls=st.none() | _calls,
    snapshot=st.booleans(),
    at_ms=_at_ms,
)
ANY_EVENT = st.one_of(QUEUED, _START, CONTENT, RESET, TERMINAL)


@st.composite
def logs(draw: Callable[[st.SearchStrategy[Any]], Any], *, ended: bool | None = None) -> list[Entry]:
    """A log as DESIGN §2 wants it: `queued`, attempts in epochs of their own, at most one terminal event, at its end.

    `ended`: with a terminal event or without one; None: either.
    """
    events: list[tuple[int, Event]] = [(0, draw(QUEUED))]
    epoch = 0
    for attempt in range(1, draw(st.integers(0, 3)) + 1):
        epoch += draw(st.integers(1, 999_999))
        if attempt > 1:
            kept = len(fold(event for _, event in events).text)
            events.append((epoch, Reset(attempt, draw(st.sampled_from((0, kept))), "worker_lost", at_ms=attempt)))
        events.append((epoch, Start(attempt, "scripted", "demo", 1, at_ms=attempt)))
        events += [(epoch, event) for event in draw(st.lists(CONTENT, max_size=8))]
    if draw(st.booleans()) if ended is None else ended:
        events.append((epoch + draw(st.integers(0, 5)), draw(TERMINAL)))
    return [Entry(EventId(epoch, seq), event) for seq, (epoch, event) in enumerate(events, start=1)]
