"""What a refusal costs: faults are counted, for each costs the node some microseconds."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from api.routes.tokens import TokenIn
from api.schemas import AnthropicIn, ChatIn, JobIn, MessageOnlyIn
from shared.errors import TailraceError
from shared.params import PROVIDERS, AnthropicParams, OpenAIParams, ScriptedParams, validate_params, without_surplus
from shared.strict import with_one_surplus

MANY = 15_000
FEW = 2
"""A field that may be of two types is refused by each."""
BASE = {"provider": "scripted", "model": "demo", "prompt": "hi"}
UNKNOWN = {f"field{n}": 1 for n in range(MANY)}
NUMBERS = [1] * MANY


def _of(*messages: Any) -> dict[str, Any]:
    return {"provider": "scripted", "model": "demo", "messages": list(messages)}


FAULTS: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "unknown fields": (JobIn, BASE | UNKNOWN),
    "names of metadata": (JobIn, BASE | {"metadata": {f"a b{n}": "" for n in range(MANY)}}),
    "values of metadata": (JobIn, BASE | {"metadata": UNKNOWN}),
    "sound metadata": (JobIn, BASE | {"metadata": dict.fromkeys(UNKNOWN, "")}),
    "messages": (JobIn, _of(*[{}] * MANY)),
    "messages of unknown fields": (JobIn, _of(*[{"role": "user", "content": "x", "a": 1, "b": 2}] * 1000)),
    "unknown fields of a message": (JobIn, _of({"role": "user", "content": "x"} | UNKNOWN)),
    "parts": (JobIn, _of({"role": "user", "content": NUMBERS})),
    "parts of many messages": (JobIn, _of(*[{"role": "user", "content": [1] * 60}] * 1000)),
    "tool calls": (JobIn, _of({"role": "assistant", "tool_calls": NUMBERS})),
    "params": (OpenAIParams, UNKNOWN),
    "names of biases": (OpenAIParams, {"logit_bias": dict.fromkeys(UNKNOWN, 1)}),
    "biases": (OpenAIParams, {"logit_bias": {str(n): 200 for n in range(1000)}}),
    "tools": (OpenAIParams, {"tools": NUMBERS}),
    "stops": (OpenAIParams, {"stop": NUMBERS}),
    "stop sequences": (AnthropicParams, {"stop_sequences": NUMBERS}),
    "a fault's names": (ScriptedParams, {"fault": {"kind": "drop"} | UNKNOWN}),
    "rights": (TokenIn, {"rights": NUMBERS}),
    "unknown fields of a token": (TokenIn, UNKNOWN),
    **{
        f"unknown fields of {kind.__name__}": (kind, {"message": "hi"} | UNKNOWN)
        for kind in (ChatIn, MessageOnlyIn, AnthropicIn)
    },
}


@pytest.mark.parametrize(("kind", "given"), FAULTS.values(), ids=FAULTS)
def test_a_body_is_looked_through_up_to_its_first_fault(kind: type[BaseModel], given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(given)
    assert caught.value.error_count() <= FEW


def test_of_many_params_that_nobody_knows_one_is_kept() -> None:
    assert JobIn.model_validate({**BASE, "params": {"seed": 7} | UNKNOWN}).params == {"seed": 7, "field0": 1}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("first", [{}, {"field7": 1}, {"top_p": 0.5, "text": "x", "seed": 1}, {"seed": "7"}])
def test_the_first_unknown_name_is_told_however_many_follow(provider: str, first: dict[str, Any]) -> None:
    refusals = []
    for given in ({**first, "field0": 1}, without_surplus(first | UNKNOWN)):
        with pytest.raises(TailraceError) as caught:
            validate_params(provider, given)
        refusals.append((caught.value.code, caught.value.field, caught.value.message))
    assert refusals[0] == refusals[1]


@pytest.mark.parametrize("given", [{}, {"a": 1}, {"x": 1, "y": 2}, {"a": 1, "x": 2}, ["x", "y", "z"], "xyz", None])
def test_what_has_no_more_members_than_names_is_taken_as_it_is(given: Any) -> None:
    assert with_one_surplus(given, {"a", "b"}) is given
