"""`params`: what is on a provider's list goes through unchanged, the rest is refused by its name."""

import math
from typing import Any

import pytest

from shared.errors import TailraceError
from shared.params import PROVIDERS, validate_params

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
GOOD: dict[str, dict[str, Any]] = {
    "openai": {
        "tools": [TOOL],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_object"},
        "stop": ["END"],
        "top_p": 1,
        "seed": -5,
        "presence_penalty": -2,
        "frequency_penalty": 0.5,
        "logit_bias": {"50256": -100},
        "reasoning_effort": "low",
        "verbosity": "high",
        "max_completion_tokens": 10,
        "service_tier": "flex",
        "prompt_cache_key": "k",
        "safety_identifier": "u",
    },
    "anthropic": {
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
        "stop_sequences": ["END"],
        "top_p": 0.5,
        "top_k": 40,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"effort": "low"},
        "service_tier": "standard_only",
    },
    "langchain": {
        "tools": [TOOL],
        "tool_choice": "any",
        "stop": ["END"],
        "top_p": 0.0,
        "top_k": 1,
        "seed": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "reasoning_effort": "high",
        "thinking": {"type": "disabled"},
    },
    "scripted": {
        "text": "Hi 🌊",
        "tokens": 5,
        "tokens_per_s": 2.5,
        "first_token_ms": 100,
        "seed": 1,
        "fault": {"kind": "drop", "after": 3, "attempts": 2},
    },
}


def refusal(provider: str, params: dict[str, Any]) -> TailraceError:
    with pytest.raises(TailraceError) as caught:
        validate_params(provider, params)
    return caught.value


@pytest.mark.parametrize("provider", PROVIDERS)
def test_everything_on_the_list_goes_through_unchanged(provider: str) -> None:
    assert validate_params(provider, GOOD[provider]) == GOOD[provider]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_was_not_given_stays_absent(provider: str) -> None:
    assert validate_params(provider, {}) == {}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "name",
    ["n", "stream", "stream_options", "model", "messages", "system", "max_tokens", "temperature", "timeout", "api_key",
     "base_url", "extra_headers", "extra_query", "extra_body", "max_retries", "http_client", "metadata", "store",
     "logprobs", "user", "prefill", "fallbacks", "", "__class__", "model_config"],
)  # fmt: skip
def test_no_transport_option_and_nothing_that_shapes_the_stream_gets_in(provider: str, name: str) -> None:
    error = refusal(provider, {name: 1})
    assert (error.code, error.field) == ("unsupported_param", f"params.{name}")
    assert "leave" in error.message.lower()


def test_a_refused_name_comes_with_the_ones_that_would_do() -> None:
    error = refusal("anthropic", {"seed": 1})
    assert error.message == (
        "`params.seed` is not known to anthropic: leave it out, or use one of tools, tool_choice, stop_sequences, "
        "top_p, top_k, thinking, output_config, service_tier."
    )


def test_a_field_of_the_job_is_pointed_to() -> None:
    assert refusal("openai", {"temperature": 1}).message == (
        "Leave `params.temperature` out: it is a field of the job itself."
    )


@pytest.mark.parametrize(
    ("provider", "params", "field"),
    [
        ("openai", {"top_p": 1.01}, "params.top_p"),
        ("openai", {"top_p": math.nan}, "params.top_p"),
        ("openai", {"top_p": "0.5"}, "params.top_p"),
        ("openai", {"top_p": True}, "params.top_p"),
        ("openai", {"presence_penalty": -math.inf}, "params.presence_penalty"),
        ("openai", {"frequency_penalty": 2.5}, "params.frequency_penalty"),
        ("openai", {"seed": 2**63}, "params.seed"),
        ("openai", {"seed": 1.5}, "params.seed"),
        ("openai", {"stop": ""}, "params.stop"),
        ("openai", {"stop": ["a", 1]}, "params.stop"),
        ("openai", {"stop": ["a"] * 17}, "params.stop"),
        ("openai", {"logit_bias": {"1": 101}}, "params.logit_bias.1"),
        ("openai", {"logit_bias": {"word": 1}}, "params.logit_bias.word"),
        ("openai", {"tools": [1]}, "params.tools.0"),
        ("openai", {"tools": [TOOL] * 129}, "params.tools"),
        ("openai", {"tools": [{"parameters": {"maximum": math.nan}}]}, "params.tools.0.parameters.maximum"),
        ("openai", {"tool_choice": 3}, "params.tool_choice"),
        ("openai", {"reasoning_effort": "very high!"}, "params.reasoning_effort"),
        ("openai", {"max_completion_tokens": 0}, "params.max_completion_tokens"),
        ("anthropic", {"thinking": "on"}, "params.thinking"),
        ("anthropic", {"top_k": -1}, "params.top_k"),
        ("langchain", {"stop": []}, "params.stop"),
        ("scripted", {"tokens": 0}, "params.tokens"),
        ("scripted", {"tokens": 10**9}, "params.tokens"),
        ("scripted", {"tokens_per_s": math.inf}, "params.tokens_per_s"),
        ("scripted", {"first_token_ms": -1}, "params.first_token_ms"),
        ("scripted", {"text": ""}, "params.text"),
        ("scripted", {"fault": {}}, "params.fault.kind"),
        ("scripted", {"fault": {"kind": "melt"}}, "params.fault.kind"),
        ("scripted", {"fault": {"kind": "drop", "after": -1}}, "params.fault.after"),
        ("scripted", {"fault": {"kind": "drop", "attempts": 0}}, "params.fault.attempts"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_path(provider: str, params: dict[str, Any], field: str) -> None:
    error = refusal(provider, params)
    assert (error.code, error.field) == ("invalid_request", field)
    assert field in error.message


def test_an_unknown_name_inside_a_fault_is_refused_with_the_known_ones() -> None:
    error = refusal("scripted", {"fault": {"kind": "drop", "when": 3}})
    assert (error.code, error.field) == ("unsupported_param", "params.fault.when")
    assert "kind, after, attempts" in error.message


@pytest.mark.parametrize("params", [{"text": "\ud83c"}, {"\udf0a": 1}])
def test_half_a_surrogate_pair_is_refused(params: dict[str, Any]) -> None:
    error = refusal("scripted", params)
    assert error.code == "invalid_request"
    assert error.message.encode()
    assert (error.field or "").encode()


def test_endless_nesting_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    error = refusal("openai", {"response_format": deep})
    assert (error.code, error.field) == ("invalid_request", "params.response_format")


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    assert "hunter2" not in refusal("openai", {"seed": "hunter2"}).message


def test_an_unknown_provider_is_answered_with_the_known_ones() -> None:
    error = refusal("oracle", {})
    assert (error.code, error.field) == ("unknown_provider", "provider")
    assert "openai, anthropic, langchain, scripted" in error.message


@pytest.mark.parametrize("name", ["stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias"])
def test_what_the_responses_api_has_not_is_refused_beside_background(name: str) -> None:
    value = GOOD["openai"][name]
    error = refusal("openai", {"background": True, name: value})
    assert (error.code, error.field) == ("unsupported_param", f"params.{name}")
    assert "background" in error.message
    for params in ({"background": False, name: value}, {"background": True, name: None}):
        assert validate_params("openai", params) == params


def test_background_is_for_openai_and_a_boolean() -> None:
    assert validate_params("openai", {"background": True, "top_p": 0.5}) == {"background": True, "top_p": 0.5}
    assert refusal("openai", {"background": 1}).code == "invalid_request"
    assert refusal("anthropic", {"background": True}).code == "unsupported_param"
