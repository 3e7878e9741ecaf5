"""One attempt's output: provider pieces in, log events out. Pure: no store, no provider, no clock of its own."""

from shared.errors import ProviderError, TailraceError
from shared.events import PROVIDER_CALLS, Done, Event, Reasoning, Token, ToolCall, clean_text
from worker.providers.base import Finish, FinishReason, Piece, Usage


def is_split(text: str) -> bool:
    """Whether `text` ends in the first half of a surrogate pair."""
    return bool(text) and "\ud800" <= text[-1] <= "\udbff"


def add_usage(before: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    """Token counts summed name by name."""
    return {name: before.get(name, 0) + more.get(name, 0) for name in (*before, *(n for n in more if n not in before))}


class Attempt:
    """Turns pieces into events. `usage_before`: what earlier attempts used; `ttft_ms`: when a reader first saw content.

    `continues`: it goes on from text that stays, so it may have nothing to add. The first content event of the attempt
    carries its `at_ms`, the others none.
    """

    def __init__(
        self,
        number: int,
        *,
        usage_before: dict[str, int],
        ttft_ms: int | None,
        queue_ms: int,
        max_bytes: int,
        continues: bool = False,
    ) -> None:
        self.number = number
        self.tokens = 0
        self.ttft_ms = ttft_ms
        self.shown = False
        self._queue_ms = queue_ms
        self._continues = continues
        self._usage_before = usage_before
        self._usage: dict[str, int] = {}
        self._calls = 0
        self._finish: FinishReason | None = None
        self._bytes_left = max_bytes
        self._held: dict[str | int, str] = {}
        self._first_ms: int | None = None

    def begin_call(self) -> None:
        """A new call of the same attempt: nothing that an earlier one left behind counts."""
        self._calls += 1
        self._finish = None
        self._held = {}
        self._usage = {}

    @property
    def usage(self) -> dict[str, int]:
        """Used so far, all attempts together: tokens, and the calls that were made."""
        calls = {PROVIDER_CALLS: self._calls} if self._calls else {}
        return add_usage(self._usage_before, {**self._usage, **calls})

    def accept(self, piece: Piece, at_ms: int) -> Event | None:
        """The event for one piece, None where the piece shows nothing. `output_too_large` beyond the limit."""
        if type(piece) is Token and piece.text.isascii() and not self._held:
            return self._content(piece, piece.text, at_ms) if piece.text else None
        match piece:
            case Token(text=text) | Reasoning(text=text):
                whole = self._whole(type(piece).__name__, text)
                return self._content(type(piece)(whole), whole, at_ms) if whole else None
            case ToolCall():
                return self._tool_call(piece, at_ms)
            case Usage(counts=counts):
                self._usage = counts
            case Finish(reason=reason):
                self._finish = reason
        return None

    def _tool_call(self, piece: ToolCall, at_ms: int) -> Event:
        arguments = self._whole(piece.index, piece.arguments)
        call = ToolCall(piece.index, clean_text(piece.id), clean_text(piece.name), arguments)
        # Names count as well: a stream of nothing but names would have no bound.
        return self._content(call, f"{call.id}{call.name}{arguments}", at_ms)

    def _whole(self, of: str | int, text: str) -> str:
        """Half a surrogate pair waits for its other half, kind by kind; what never comes becomes U+FFFD."""
        text = self._held.pop(of, "") + text
        if is_split(text):
            self._held[of], text = text[-1], text[:-1]
        return clean_text(text)

    def _content(self, event: Token | Reasoning | ToolCall, text: str, at_ms: int) -> Event:
        self._bytes_left -= len(text) if text.isascii() else len(text.encode())
        if self._bytes_left < 0:
            raise TailraceError("output_too_large")
        self.tokens += isinstance(event, Token)
        if self.shown:
            return event
        self.shown = True
        self._first_ms = at_ms
        if self.ttft_ms is None:
            self.ttft_ms = at_ms
        return _at(event, at_ms)

    def rest(self, at_ms: int) -> list[Event]:
        """What was held back and has no second half any more."""
        held, self._held = self._held, {}
        lost = "\ufffd"
        events = [
            ToolCall(of, "", "", lost) if isinstance(of, int) else Token(lost) if of == "Token" else Reasoning(lost)
            for of in held
        ]
        return [self._content(event, lost, at_ms) for event in events]

    def done(self, at_ms: int) -> Done:
        """The terminal event of a whole answer. ProviderError where the stream ended without the provider's mark."""
        if self._finish is None:
            raise ProviderError("provider_interrupted", detail="the stream ended without an end mark")
        if not self.shown and not self._continues and self._finish == "stop":
            raise ProviderError("empty_output")
        return Done(self._finish, self.usage, self.tokens, self.number, self.timings(at_ms), at_ms)

    def timings(self, at_ms: int) -> dict[str, int | float]:
        """The terminal event's timings, in ms from the POST; tokens per second over the time of streaming."""
        timings: dict[str, int | float] = {"queue_ms": self._queue_ms}
        if self.ttft_ms is not None:
            timings["ttft_ms"] = self.ttft_ms
        timings["latency_ms"] = at_ms
        if self._first_ms is not None and self.tokens > 1 and at_ms > self._first_ms:
            timings["tokens_per_s"] = round(self.tokens * 1000 / (at_ms - self._first_ms), 1)
        return timings


def _at(event: Token | Reasoning | ToolCall, at_ms: int) -> Event:
    match event:
        case Token(text=text):
            return Token(text, at_ms)
        case Reasoning(text=text):
            return Reasoning(text, at_ms)
        case ToolCall():
            return ToolCall(event.index, event.id, event.name, event.arguments, at_ms)
