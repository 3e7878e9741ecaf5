"""From a vendor's fragments to whole pieces: what every adapter that talks to a model over a wire has in common."""

from collections.abc import Hashable, Iterator, Sequence

from shared.errors import ProviderError
from shared.events import Reasoning, Token, ToolCall, clean_text
from shared.jobs import Message
from worker.providers.base import Call, Usage

CONTINUE = (
    "Your answer broke off there. Go on exactly where it stopped: repeat nothing, add no introduction and no comment, "
    "and begin with the very next character."
)
"""What a model is told that is to go on from a partial answer. (Current models refuse to be prefilled.)"""


LONGEST_NAME = 1024
"""Characters of a tool call's id or name; the vendors' own stay below 100."""
MOST_CALLS = 4096


def conversation(call: Call) -> list[Message]:
    """The messages to send: those of the job, and for a continuation the partial answer and the wish to go on."""
    if not call.continue_text.strip():
        return call.messages
    return [*call.messages, Message("assistant", call.continue_text), Message("user", CONTINUE)]


def count_tokens(
    input_tokens: int | None,
    output_tokens: int | None,
    *,
    cache_read: int | None = None,
    cache_write: int | None = None,
    reasoning: int | None = None,
) -> Usage:
    """Usage under OpenTelemetry's names. `input_tokens` holds the cached ones too; details that are 0 are left out."""
    details = {
        "cache_read_input_tokens": cache_read,
        "cache_write_input_tokens": cache_write,
        "reasoning_output_tokens": reasoning,
    }
    counts = {"input_tokens": input_tokens or 0, "output_tokens": output_tokens or 0}
    return Usage(counts | {name: value for name, value in details.items() if value})


class Pieces:
    """Makes pieces out of fragments: drops empty ones, joins split surrogate pairs, numbers tool calls from 0.

    A vendor's JSON may cut a pair between two frames; the first half waits here for the second. A vendor's index of
    a tool call may be that of a content block (Anthropic), the same for all calls (some OpenAI-compatible servers),
    or start anew with every model of a chain; readers get 0, 1, 2 … in order of appearance.
    """

    def __init__(self) -> None:
        self._halves: dict[str | int, str] = {}
        self._numbers: dict[Hashable, int] = {}
        self._ids: dict[int, str] = {}
        self._bare: dict[int, None] = {}  # tool calls without any argument text so far, in order

    @property
    def whole(self) -> bool:
        """Whether no half of a pair waits here: everything that came in has gone out."""
        return not self._halves

    def token(self, fragment: object) -> Sequence[Token]:
        """A piece of the answer. ProviderError(provider_protocol) if the fragment is no text."""
        text = self._whole("text", fragment)
        return (Token(text),) if text else ()

    def reasoning(self, fragment: object) -> Sequence[Reasoning]:
        """A piece of reasoning. ProviderError(provider_protocol) if the fragment is no text."""
        text = self._whole("reasoning", fragment)
        return (Reasoning(text),) if text else ()

    def tool_call(self, key: Hashable, call_id: object, name: object, arguments: object) -> Sequence[ToolCall]:
        """A piece of the tool call that the vendor knows as `key`. ProviderError(provider_protocol) for names that are
        no text or of no sane length, and for more calls than any answer has: neither counts against its size."""
        call_id, name = _sound(call_id), _sound(name)
        if len(call_id) > LONGEST_NAME or len(name) > LONGEST_NAME:
            raise ProviderError("provider_protocol", detail="the name of a tool call is too long")
        number = self._number(key, call_id)
        if number >= MOST_CALLS:
            raise ProviderError("provider_protocol", detail="too many tool calls")
        text = self._whole(number, arguments)
        if text:
            self._bare.pop(number, None)
        return (ToolCall(number, call_id, name, text),) if text or call_id or name else ()

    def rest(self) -> Iterator[Token | Reasoning | ToolCall]:
        """What is left when the stream ends.

        Halves whose other half never came, as U+FFFD; and `{}` for tool calls without arguments, since whoever reads
        them parses the text as JSON.
        """
        for kind in self._halves:
            match kind:
                case "text":
                    yield Token("\ufffd")
                case "reasoning":
                    yield Reasoning("\ufffd")
                case int():
                    yield ToolCall(kind, "", "", "\ufffd")
        yield from (ToolCall(number, "", "", "{}") for number in self._bare)

    def _whole(self, kind: str | int, fragment: object) -> str:
        if fragment is None:
            return ""
        if not isinstance(fragment, str):
            raise ProviderError("provider_protocol", detail=f"a fragment of type {type(fragment).__name__}")
        if half := self._halves.pop(kind, ""):
            fragment = half + fragment
        if fragment and "\ud800" <= fragment[-1] <= "\udbff":
            self._halves[kind] = fragment[-1]
            fragment = fragment[:-1]
        return fragment if fragment.isascii() else clean_text(fragment)

    def _number(self, key: Hashable, call_id: str | None) -> int:
        number = self._numbers.get(key)
        if number is None or (call_id and self._ids[number] and self._ids[number] != call_id):
            number = self._numbers[key] = len(self._ids)
            self._ids[number] = ""
            self._bare[number] = None
        if call_id:
            self._ids[number] = call_id
        return number


def _sound(name: object) -> str:
    """A name or an id as a log can hold it: half a surrogate pair would break the log's writer, not the call."""
    if name is None:
        return ""
    if not isinstance(name, str):
        raise ProviderError("provider_protocol", detail=f"a name of type {type(name).__name__}")
    return name if name.isascii() else clean_text(name)
