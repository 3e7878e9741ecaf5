"""The `langchain` provider: any chat model that `init_chat_model` knows, and the installation's own chains and graphs.

`model` is the name of a chain in TAILRACE_CHAINS, or `provider:model`. What a chain gets as its input follows from its
input schema: `{"messages": [...]}` if it has that key (every graph over messages), the list of messages if it takes
one, else the text of the last user message, under the chain's one key where it has one.
"""

import asyncio
import importlib
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import reduce
from typing import Any
from uuid import uuid4

import httpx2
import msgspec

from shared.errors import ProviderError
from shared.jobs import Message
from shared.settings import Settings
from worker.providers import failures, outward
from worker.providers.anthropic_messages import SAMPLING, SAMPLING_HEADERS
from worker.providers.base import Call, Piece
from worker.providers.credentials import NO_KEYS, ProviderKeys, credentials
from worker.providers.langchain_answer import ChainAnswer, ModelAnswer
from worker.providers.pieces import conversation

_MAX_MODELS = 64
"""Clients kept per process; model names come from outside."""
_VENDORS: dict[str, dict[str, Any]] = {
    "openai": {"use_responses_api": False, "stream_chunk_timeout": 0},
    "anthropic": {},
}
_MISSING = "LangChain is not installed: install Tailrace with its `langchain` extra in the workers' environment."
_CHAIN_FAILED = "The chain raised an error: see the workers' log."


class LangChainProvider:
    """One model or chain object per name and process, made in a thread at its first call."""

    name = "langchain"

    def __init__(self, settings: Settings, keys: ProviderKeys = NO_KEYS) -> None:
        self._settings = settings
        self._keys = keys
        self._allowed = frozenset(part.strip() for part in settings.langchain_providers.split(","))
        self._made: dict[tuple[str, str | None], Any] = {}
        self._making = asyncio.Lock()
        self._pool = httpx2.AsyncClient(**outward.pool(settings, frames=True))
        # Off unless asked for: LangChain would send every prompt to LangSmith when it finds a key.
        os.environ.setdefault("LANGSMITH_TRACING", "false")

    async def stream(self, call: Call) -> AsyncGenerator[Piece, None]:
        """The pieces of one answer; see Provider.stream."""
        is_chain = call.model in self._settings.chains
        answer = ChainAnswer() if is_chain else ModelAnswer()
        try:
            async with aclosing(await self._open(call, is_chain=is_chain)) as items:
                async for item in items:
                    for piece in answer.feed(item):
                        yield piece
            for piece in answer.finish():
                yield piece
        except Exception as error:
            raise _failure(error, started=answer.started, is_chain=is_chain) from None

    async def aclose(self) -> None:
        """Close the connections of the models; chains close what they opened."""
        await self._pool.aclose()

    async def _open(self, call: Call, *, is_chain: bool) -> AsyncGenerator[Any, None]:
        if is_chain:
            chain = await self._get(call.model, None, self._import_chain)
            _refuse_settings(call)
            events: AsyncGenerator[Any, None] = chain.astream_events(
                _chain_input(chain, call), version="v2", config=_config(call)
            )
            return events
        key = self._keys.of(call.tenant, call.model.partition(":")[0])
        model = await self._get(call.model, key, self._make_model)
        options = dict(call.params)
        tools, tool_choice = options.pop("tools", None), options.pop("tool_choice", None)
        if call.temperature is not None:
            options["temperature"] = call.temperature
        if call.max_tokens is not None:
            options["max_tokens"] = call.max_tokens
        if call.model.startswith("anthropic:") and SAMPLING & options.keys():
            options["extra_headers"] = SAMPLING_HEADERS
        if tools:
            model = model.bind_tools(tools, **({"tool_choice": tool_choice} if tool_choice else {}))
        chunks: AsyncGenerator[Any, None] = model.astream(_messages(call), **options)
        return chunks

    async def _get(self, name: str, key: str | None, make: Callable[[str, str | None], Any]) -> Any:
        """The model or chain of a name, made with a tenant's own `key`, or with the installation's (None)."""
        made = self._made.get((name, key))
        if made is not None:
            return made
        async with self._making:
            if (name, key) not in self._made:
                # Importing LangChain takes seconds, in which this process has leases to renew.
                self._made[name, key] = await asyncio.to_thread(make, name, key)
                if len(self._made) > _MAX_MODELS:
                    del self._made[next(iter(self._made))]
            return self._made[name, key]

    def _import_chain(self, name: str, _: str | None) -> Any:
        module, _, path = self._settings.chains[name].partition(":")
        try:
            return reduce(getattr, path.split("."), importlib.import_module(module))
        except Exception as error:
            if isinstance(error, ImportError) and (error.name or "").startswith("lang"):
                raise ProviderError("provider_not_configured", _MISSING) from None
            raise ProviderError(
                "provider_not_configured",
                f"The chain `{name}` cannot be imported: check TAILRACE_CHAINS in the workers' environment.",
                detail=failures.classify(error, started=False).detail,
            ) from None

    def _make_model(self, name: str, key: str | None) -> Any:
        provider, mark, model = name.partition(":")
        if not (provider and mark and model):
            raise ProviderError(
                "provider_rejected", "`model` is `provider:model`, or a chain named in TAILRACE_CHAINS."
            )
        if provider not in self._allowed:
            raise ProviderError(
                "provider_not_configured",
                f"`{name[:80]}` is of none of the LangChain packages that TAILRACE_LANGCHAIN_PROVIDERS names.",
            )
        try:
            from langchain.chat_models import init_chat_model
        except ImportError:
            raise ProviderError("provider_not_configured", _MISSING) from None
        try:
            made: Any = init_chat_model(name, **self._options(provider, key))
            if provider == "anthropic":
                # The integration takes no client, and its own pool is shared with every other user of the process.
                vars(made)["_async_client"] = made._async_client.with_options(  # noqa: SLF001
                    http_client=self._pool, timeout=outward.timeouts(self._settings)
                )
            elif provider == "openai" and key is not None:
                client = made.root_async_client
                client.organization = client.project = None  # the environment's are the installation's
            elif provider not in _VENDORS and "max_retries" in type(made).model_fields:
                made = init_chat_model(name, max_retries=0)
        except ProviderError:
            raise
        except Exception as error:
            raise ProviderError(
                "provider_not_configured",
                f"LangChain cannot make `{name[:80]}`: check its name, package and key in the workers' environment.",
                detail=failures.classify(error, started=False).detail,
            ) from None
        return made

    def _options(self, provider: str, own_key: str | None) -> dict[str, Any]:
        """What this service sets for the vendors that it knows: no retries, usage, and the caller's time-outs rule."""
        if provider not in _VENDORS:
            return {}
        key, base_url = credentials(provider, own_key)
        options: dict[str, Any] = {
            "api_key": key,
            "max_retries": 0,
            "stream_usage": True,
            **_VENDORS[provider],
        }
        if provider == "anthropic":
            options["max_tokens"] = self._settings.anthropic_max_tokens
        else:
            options |= {"http_async_client": self._pool, "timeout": outward.timeouts(self._settings)}
        return options | ({"base_url": base_url} if base_url else {})


def _failure(error: Exception, *, started: bool, is_chain: bool) -> ProviderError:
    if str(error) == "No generation chunks were returned":
        # LangChain's way to say that the response ended before anything came.
        return ProviderError("provider_interrupted", detail="the response held no chunk")
    if is_chain:
        return failures.classify(error, started=started, unknown=("provider_rejected", _CHAIN_FAILED))
    return failures.classify(error, started=started)


def _refuse_settings(call: Call) -> None:
    """A chain brings its own models and their settings; ignoring a wish silently would be worse than refusing it."""
    if call.params or call.temperature is not None or call.max_tokens is not None:
        raise ProviderError(
            "provider_rejected", "A chain has its own settings: leave `params`, `temperature` and `max_tokens` out."
        )


def _messages(call: Call) -> list[Any]:
    """LangChain's messages, the system text first."""
    from langchain_core.messages import convert_to_messages

    system = [Message("system", call.system)] if call.system else []
    return convert_to_messages(
        [{"content": None, **msgspec.to_builtins(message)} for message in (*system, *conversation(call))]
    )


def _chain_input(chain: Any, call: Call) -> Any:
    """The chain's input by its schema; see the head of this file."""
    messages = _messages(call)
    schema = _schema(chain)
    keys = [key for key in schema.get("properties", {}) if key != "root"]
    required = [key for key in schema.get("required", ()) if key in keys]
    if "messages" in keys:
        return {"messages": messages}
    if "anyOf" in schema or schema.get("type") == "array":
        return messages
    if len(required or keys) > 1:
        raise ProviderError(
            "provider_not_configured", "The chain wants several inputs: give it one, or `messages`, in its place."
        )
    text = _last_text(call)
    return {(required or keys)[0]: text} if keys else text


def _schema(chain: Any) -> dict[str, Any]:
    try:
        schema: dict[str, Any] = chain.get_input_jsonschema()
    except Exception:  # a type that has no JSON schema says nothing about the input
        return {}
    return schema


def _last_text(call: Call) -> str:
    """The text of the last user message; for a continuation with the partial answer and the wish to go on below it."""
    tail = conversation(call)[len(call.messages) :]
    asked = next((message for message in reversed(call.messages) if message.role == "user"), Message("user", ""))
    return "\n\n".join(_text(message) for message in (asked, *tail))


def _text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(str(part.get("text", "")) for part in message.content or ())


def _config(call: Call) -> dict[str, Any]:
    """A graph with a checkpointer needs a thread, and every call a fresh one: a job starts from its own messages."""
    return {"configurable": {"thread_id": f"{call.job_id}/{uuid4().hex}"}, "metadata": {"job_id": call.job_id}}
