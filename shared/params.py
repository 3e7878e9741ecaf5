"""The allow-list of `params`: what a job may say to each provider beyond the fields that all of them share.

A name that is not here never reaches a provider: no transport option (time-outs, headers, URLs, keys), nothing that
changes the shape of the stream (`n`, `stream`), nothing that the job says elsewhere (`model`, `messages`). Bounds are
the vendors' own where they publish one, otherwise far above any sane use: they keep nonsense out, not taste.
"""

import json
from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict, Field, JsonValue, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from shared.errors import TailraceError
from shared.strict import StrictModel, with_one_surplus

_Object = dict[str, JsonValue]
_Tools = Annotated[list[_Object], Field(max_length=128, fail_fast=True)]
_StopText = Annotated[str, StringConstraints(min_length=1, max_length=500)]
_Stops = Annotated[list[_StopText], Field(min_length=1, max_length=16, fail_fast=True)]
_Fraction = Annotated[float, Field(ge=0, le=1)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
_Count = Annotated[int, Field(ge=1, le=10_000_000)]
_TokenId = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,8}$")]
_Bias = Annotated[float, Field(ge=-100, le=100)]
# Levels and tiers grow with every generation of models: the shape is checked here, the word by the vendor.
_Level = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,24}$")]
_Label = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class _Params(StrictModel):
    """Strict: no coercion, nothing unknown, no NaN and no infinity, at any depth."""

    model_config = ConfigDict(allow_inf_nan=False)


class OpenAIParams(_Params):
    """Chat completions of OpenAI and of servers that speak its protocol; with `background`, the Responses API.

    Sources: https://platform.openai.com/docs/api-reference/chat/create, …/responses/create.
    """

    tools: _Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | _Object | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Object | None = None
    stop: _StopText | _Stops | None = None
    top_p: _Fraction | None = None
    seed: _Seed | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: Annotated[dict[_TokenId, _Bias], Field(max_length=1024, fail_fast=True)] | None = None
    reasoning_effort: _Level | None = None
    verbosity: _Level | None = None
    max_completion_tokens: _Count | None = None
    service_tier: _Level | None = None
    prompt_cache_key: _Label | None = None
    safety_identifier: _Label | None = None
    background: bool | None = None


class AnthropicParams(_Params):
    """Anthropic's messages. Source: https://platform.claude.com/docs/en/api/messages."""

    tools: _Tools | None = None
    tool_choice: _Object | None = None
    stop_sequences: _Stops | None = None
    top_p: _Fraction | None = None
    top_k: Annotated[int, Field(ge=0, le=100_000)] | None = None
    thinking: _Object | None = None
    output_config: _Object | None = None
    service_tier: _Level | None = None


class LangChainParams(_Params):
    """What `init_chat_model`'s integrations have in common; a model that lacks one of them refuses it."""

    tools: _Tools | None = None
    tool_choice: _StopText | _Object | None = None
    stop: _Stops | None = None
    top_p: _Fraction | None = None
    top_k: Annotated[int, Field(ge=0, le=100_000)] | None = None
    seed: _Seed | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    reasoning_effort: _Level | None = None
    thinking: _Object | None = None


class Fault(_Params):
    """What goes wrong, once `after` tokens were given, in the first `attempts` attempts of the job."""

    kind: Literal["error", "stall", "drop", "empty", "exit"]
    after: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    attempts: Annotated[int, Field(ge=1, le=100)] = 1


class ScriptedParams(_Params):
    """The scripted provider: what it says, how fast, and how it breaks. `tokens_per_s` 0: as fast as it goes."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=1_000_000)] | None = None
    tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    tokens_per_s: Annotated[float, Field(ge=0, le=1_000_000)] = 0
    first_token_ms: Annotated[float, Field(ge=0, le=3_600_000)] = 0
    seed: _Seed | None = None
    fault: Fault | None = None


_MODELS: dict[str, type[_Params]] = {
    "openai": OpenAIParams,
    "anthropic": AnthropicParams,
    "langchain": LangChainParams,
    "scripted": ScriptedParams,
}
PROVIDERS: tuple[str, ...] = tuple(_MODELS)
"""The names of all providers."""
_ALL_NAMES = frozenset[str]().union(*(model.model_fields for model in _MODELS.values()))


def param_names(provider: str) -> frozenset[str]:
    """The names on a provider's list."""
    return frozenset(_MODELS[provider].model_fields)


def without_surplus(params: Any) -> Any:
    """The `params` without the names that are on no provider's list, but the first, where there are many."""
    return with_one_surplus(params, _ALL_NAMES)


_NOT_IN_BACKGROUND = ("stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias")
"""What chat completions have and the Responses API has not."""

_ELSEWHERE = {
    **dict.fromkeys(("model", "messages", "system", "max_tokens", "temperature"), "it is a field of the job itself"),
    **dict.fromkeys(("stream", "stream_options", "n"), "a job is always one stream of one answer"),
}


def validate_params(provider: str, params: dict[str, Any]) -> dict[str, Any]:
    """The given `params`, checked against the provider's list; what was not given stays absent.

    Raises TailraceError: `unknown_provider`, `unsupported_param` for a name that is not on the list, or
    `invalid_request` for a value that is out of bounds; `field` names the one at fault (`params.top_p`).
    """
    model = _MODELS.get(provider)
    if model is None:
        raise TailraceError("unknown_provider", f"The provider is one of: {', '.join(PROVIDERS)}.", field="provider")
    for name, value in params.items():
        _check_text(name, value)
    try:
        checked = model.model_validate(params)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise _refusal(provider, model, params, problem) from None
    _check_background(params)
    return checked.model_dump(exclude_unset=True)


def _check_background(params: dict[str, Any]) -> None:
    for name in _NOT_IN_BACKGROUND if params.get("background") else ():
        if params.get(name) is not None:
            raise TailraceError(
                "unsupported_param",
                f"`params.{name}` does not go with `params.background`: OpenAI's Responses API has no such parameter. "
                "Leave one of the two out.",
                field=f"params.{name}",
            )


def _check_text(name: str, value: object) -> None:
    """Refuse what JSON allows but no store or provider can take: half a surrogate pair, endless nesting."""
    try:
        json.dumps([name, value], ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError, TypeError) as error:
        shown = name.encode(errors="replace").decode()[:64]
        reason = "nested too deeply" if isinstance(error, RecursionError) else "not valid Unicode text"
        raise TailraceError(
            "invalid_request", f"`params.{shown}` is {reason}: mend it and send it again.", field=f"params.{shown}"
        ) from None


def _refusal(provider: str, model: type[_Params], params: dict[str, Any], problem: ErrorDetails) -> TailraceError:
    field = _field(params, problem)
    if problem["type"] != "extra_forbidden":
        return TailraceError("invalid_request", f"`{field}`: {problem['msg']}.", field=field)
    name = field.removeprefix("params.")
    if reason := _ELSEWHERE.get(name):
        return TailraceError("unsupported_param", f"Leave `{field}` out: {reason}.", field=field)
    allowed = ", ".join((Fault if name.startswith("fault.") else model).model_fields)
    return TailraceError(
        "unsupported_param",
        f"`{field}` is not known to {provider}: leave it out, or use one of {allowed}.",
        field=field,
    )


def _field(params: dict[str, Any], problem: ErrorDetails) -> str:
    """The dotted path to the value at fault; pydantic's path also names the branches of unions, which nobody sent."""
    path, value = "params", cast("JsonValue", params)
    for part in problem["loc"][:6]:
        match value, part:
            case dict(), str() if part in value or problem["type"] == "missing":
                path, value = f"{path}.{part[:64]}", value.get(part)
            case list(), int() if part < len(value):
                path, value = f"{path}.{part}", value[part]
    return path
