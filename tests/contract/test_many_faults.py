"""Bodies with as many faults as fit into one: the first is told, in the words that it has alone."""

from typing import Any

import pytest

from tests.contract.conftest import Strict
from tests.contract.test_bad_input import but, messages, params
from tests.support.wire import Json, Wire, assert_problem

UNKNOWN = {f"field{n}": 1 for n in range(15_000)}
NUMBERS = [1] * 60_000
PARTS = {"role": "user", "content": NUMBERS}
CALLS = {"role": "assistant", "tool_calls": NUMBERS}
FIELD = "There is no field 'field0'. Leave it out."
TEXT = "Input should be a valid string."
OBJECT = "Input should be a valid dictionary."
FAULTS: dict[str, tuple[str, Json, str, str, str]] = {
    # What is asked, and the code, the field and the words of the refusal.
    "unknown fields": ("/jobs", but(**UNKNOWN), "invalid_request", "field0", FIELD),
    "unknown fields of a message": (
        "/jobs",
        messages({"role": "user", "content": "x", **UNKNOWN}),
        "invalid_request",
        "messages.0.field0",
        "There is no field 'messages.0.field0'. Leave it out.",
    ),
    "names of metadata": (
        "/jobs",
        but(metadata={f"a b{n}": "" for n in range(15_000)}),
        "invalid_request",
        "metadata.a b0.[key]",
        "metadata.a b0.[key]: blanks and control characters are not allowed.",
    ),
    "values of metadata": (
        "/jobs",
        but(metadata={f"a{n}": 1 for n in range(15_000)}),
        "invalid_request",
        "metadata.a0",
        f"metadata.a0: {TEXT}",
    ),
    "sound metadata": (
        "/jobs",
        but(metadata={f"a{n}": "" for n in range(15_000)}),
        "invalid_request",
        "metadata",
        "metadata: Dictionary should have at most 16 items after validation, not more.",
    ),
    "unknown params": (
        "/jobs",
        params("openai", **UNKNOWN),
        "unsupported_param",
        "params.field0",
        "`params.field0` is not known to openai: leave it out, or use one of tools, tool_choice, ",
    ),
    "unknown names in a fault": (
        "/jobs",
        params(fault={"kind": "drop", **UNKNOWN}),
        "unsupported_param",
        "params.fault.field0",
        "`params.fault.field0` is not known to scripted: leave it out, or use one of kind, after, attempts.",
    ),
    "biases": (
        "/jobs",
        params("openai", logit_bias={f"x{n}": 200 for n in range(10_000)}),
        "invalid_request",
        "params.logit_bias.x0",
        "`params.logit_bias.x0`: String should match pattern '^[0-9]{1,8}$'.",
    ),
    "tools": (
        "/jobs",
        params("openai", tools=NUMBERS),
        "invalid_request",
        "params.tools.0",
        f"`params.tools.0`: {OBJECT}",
    ),
    "stops": ("/jobs", params("anthropic", stop_sequences=NUMBERS), "invalid_request", "params.stop_sequences.0", TEXT),
    "messages": ("/jobs", messages(*[{}] * 50_000), "invalid_request", "messages.0.role", "Field required."),
    "parts": ("/jobs", messages(PARTS), "invalid_request", "messages.0.content.str", TEXT),
    "tool calls": ("/jobs", messages(CALLS), "invalid_request", "messages.0.tool_calls.0", OBJECT),
    **{
        f"unknown fields at {path}": (path, {"message": "hi", **UNKNOWN}, "invalid_request", "field0", FIELD)
        for path in ("/chat/stream", "/chat/stream-meta", "/anthropic/stream", "/langchain/stream")
    },
}


@pytest.mark.requirement("GN-8")
@pytest.mark.requirement("CR-9")
@pytest.mark.parametrize(("path", "body", "code", "field", "words"), FAULTS.values(), ids=FAULTS)
async def test_of_many_faults_the_first_is_told(
    wire: Wire, path: str, body: Json, code: str, field: str, words: str
) -> None:
    problem = assert_problem(await wire.ask("POST", path, body), 400, code, field)
    assert words in problem["detail"]


TOKENS: dict[str, tuple[Json, str, str]] = {
    "unknown fields": (UNKNOWN, "field0", FIELD),
    "rights": ({"rights": NUMBERS}, "rights.0", "rights.0: Input should be 'read' or 'cancel'."),
}


@pytest.mark.requirement("TK-5")
@pytest.mark.parametrize(("body", "field", "words"), TOKENS.values(), ids=TOKENS)
async def test_of_many_faults_in_what_a_token_is_to_be_the_first_is_told(
    strict: Strict, body: Any, field: str, words: str
) -> None:
    job = await strict.acme.submit("hello")
    answer = await strict.acme.ask("POST", f"/jobs/{job}/tokens", body)
    assert assert_problem(answer, 400, "invalid_request", field)["detail"] == words
