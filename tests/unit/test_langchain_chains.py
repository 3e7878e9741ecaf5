"""The `langchain` provider with chains and graphs of an installation's own."""

import os
import sys
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.language_models import FakeListChatModel, FakeMessagesListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from shared.events import Token, ToolCall
from shared.settings import Settings
from tests.support.provider_behaviour import Behaviour, ToolUse
from tests.support.provider_calls import call_it, leave
from tests.support.provider_frames import INPUT_TOKENS, SECRET
from tests.support.provider_server import ProviderServer
from worker.providers.langchain import LangChainProvider
from worker.providers.langchain_answer import ChainAnswer
from worker.providers.pieces import CONTINUE

VENDORS = ["openai", "anthropic"]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], LangChainProvider]:
    """Puts a chain into a module of the installation's own, named `mine` in the settings."""

    def install(chain: Any) -> LangChainProvider:
        monkeypatch.setitem(sys.modules, "installed_chains", SimpleNamespace(deep=SimpleNamespace(chain=chain)))
        return LangChainProvider(Settings(chains={"mine": "installed_chains:deep.chain"}))

    return install


@pytest.fixture
async def model(server: ProviderServer) -> AsyncIterator[Any]:
    async with httpx2.AsyncClient() as pool:
        yield init_chat_model("openai:in-a-chain", base_url=server.openai_url, api_key="k", max_retries=0,
                              stream_usage=True, http_async_client=pool)  # fmt: skip


Install = Callable[[Any], LangChainProvider]


async def test_a_chain_streams_its_models_tokens_and_its_usage(
    server: ProviderServer, model: Any, install: Install
) -> None:
    chain = ChatPromptTemplate.from_template("Say it: {question}") | model | StrOutputParser()
    server.script(Behaviour(pieces=("one ", "two")))
    outcome = await call_it(install(chain), model="mine")
    assert [piece.text for piece in outcome.pieces if isinstance(piece, Token)] == ["one ", "two"]
    assert outcome.usage == {"input_tokens": INPUT_TOKENS, "output_tokens": 2, "cache_read_input_tokens": 3}
    assert outcome.finish == "stop"
    assert (await server.received(1)).body["messages"] == [
        {"role": "user", "content": "Say it: Where does the water go?"}
    ]


async def test_tool_calls_of_a_loop_of_models_are_numbered_through_and_their_usage_is_summed(
    server: ProviderServer, model: Any, install: Install
) -> None:
    def depth(place: str) -> str:
        """How deep it is."""
        return f"{place}: 3 m"

    server.script(
        Behaviour(tools=(ToolUse("a", "depth", ('{"place":', '"weir"}')),)),
        Behaviour(tools=(ToolUse("b", "depth", ('{"place":"pond"}',)),)),
        Behaviour(pieces=("It is ", "3 m.")),
    )
    outcome = await call_it(install(create_agent(model, [depth])), model="mine")
    assert [(call["index"], call["id"], call["arguments"]) for call in outcome.tool_calls] == [
        (0, "a", '{"place":"weir"}'),
        (1, "b", '{"place":"pond"}'),
    ]
    assert outcome.text == "It is 3 m."
    assert outcome.usage["input_tokens"] == 3 * INPUT_TOKENS
    assert outcome.finish == "stop"
    assert "weir: 3 m" in str((await server.received(2)).body["messages"])


def test_tool_calls_of_models_that_run_at_once_are_kept_apart() -> None:
    answer = ChainAnswer()
    chunks = [("a", "one", "f", ""), ("b", "two", "f", ""), ("a", None, None, "1"), ("b", None, None, "2")]
    pieces: list[Any] = []
    for run, call_id, name, arguments in chunks:
        call = {"index": 0, "id": call_id, "name": name, "args": arguments, "type": "tool_call_chunk"}
        chunk = AIMessageChunk(content="", tool_call_chunks=[call])
        event = {"event": "on_chat_model_stream", "run_id": run, "parent_ids": ["root"], "tags": [], "data": {}}
        pieces += answer.feed(event | {"data": {"chunk": chunk}})
    assert pieces == [ToolCall(0, "one", "f", ""), ToolCall(1, "two", "f", ""), ToolCall(0, "", "", "1"),
                      ToolCall(1, "", "", "2")]  # fmt: skip


def _graph(node: Callable[..., Any], **options: Any) -> Any:
    return StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile(**options)


async def test_a_graph_with_a_checkpointer_starts_from_the_jobs_own_messages_every_time(install: Install) -> None:
    seen: list[int] = []

    async def node(state: MessagesState) -> Any:
        seen.append(len(state["messages"]))
        return {"messages": [await FakeListChatModel(responses=["flows"]).ainvoke(state["messages"])]}

    provider = install(_graph(node, checkpointer=InMemorySaver()))
    assert [(await call_it(provider, model="mine", system="Brief.")).text for _ in range(2)] == ["flows", "flows"]
    assert seen == [2, 2]


async def test_a_graph_that_calls_no_model_shows_its_last_message(install: Install) -> None:
    provider = install(_graph(lambda _: {"messages": [AIMessage("Downhill.")]}))
    outcome = await call_it(provider, model="mine")
    assert (outcome.text, outcome.finish) == ("Downhill.", "stop")


async def test_steps_tagged_nostream_are_not_shown(install: Install) -> None:
    hidden = FakeListChatModel(responses=["rewritten"]).with_config(tags=["nostream"])
    chain = hidden | StrOutputParser() | FakeListChatModel(responses=["shown"])
    assert (await call_it(install(chain), model="mine")).text == "shown"


async def test_a_chain_without_a_model_streams_its_own_text(install: Install) -> None:
    async def words(_: AsyncIterator[Any]) -> AsyncIterator[str]:
        for word in ("down ", "hill"):
            yield word

    outcome = await call_it(install(RunnableGenerator(words)), model="mine")
    assert [piece.text for piece in outcome.pieces if isinstance(piece, Token)] == ["down ", "hill"]


async def test_a_model_that_does_not_stream_is_shown_once(install: Install) -> None:
    silent = FakeMessagesListChatModel(responses=[AIMessage("Downhill.")])
    assert (await call_it(install(silent | StrOutputParser()), model="mine")).text == "Downhill."


def _echo(kind: str) -> Runnable[Any, Any]:
    def of_text(asked: str) -> str:
        return f"text {asked}"

    def of_messages(asked: list[Any]) -> str:
        return " ".join(f"{message.type} {message.text}" for message in asked)

    return RunnableLambda(of_text if kind == "text" else of_messages)


async def test_a_chain_gets_what_its_schema_asks_for(install: Install) -> None:
    assert (await call_it(install(_echo("text")), model="mine")).text == "text Where does the water go?"
    messages = await call_it(install(_echo("messages")), model="mine", system="Brief.")
    assert messages.text == "system Brief. human Where does the water go?"


async def test_a_chain_that_takes_text_is_told_in_text_to_go_on(install: Install) -> None:
    outcome = await call_it(install(_echo("text")), model="mine", continue_text="It goes")
    assert outcome.text == f"text Where does the water go?\n\nIt goes\n\n{CONTINUE}"


async def test_a_chain_with_several_inputs_is_refused(install: Install) -> None:
    error = (await call_it(install(ChatPromptTemplate.from_template("{a} {b}")), model="mine")).error
    assert error is not None
    assert (error.code, "several inputs" in error.message) == ("provider_not_configured", True)


@pytest.mark.parametrize("wish", [{"params": {"top_p": 1.0}}, {"temperature": 0.0}, {"max_tokens": 5}], ids=str)
async def test_a_chains_own_settings_cannot_be_overruled(install: Install, wish: dict[str, Any]) -> None:
    error = (await call_it(install(_echo("text")), model="mine", **wish)).error
    assert error is not None
    assert (error.code, "own settings" in error.message) == ("provider_rejected", True)


async def test_a_chain_cannot_be_imported_by_a_wrong_name() -> None:
    provider = LangChainProvider(Settings(chains={"mine": "no_such_module:chain"}))
    error = (await call_it(provider, model="mine")).error
    assert error is not None
    assert (error.code, "TAILRACE_CHAINS" in error.message) == ("provider_not_configured", True)


async def test_a_fault_in_a_chains_own_code_is_not_retried_and_its_words_stay_inside(install: Install) -> None:
    def broken(_: str) -> str:
        raise KeyError(SECRET)

    error = (await call_it(install(RunnableLambda(broken)), model="mine")).error
    assert error is not None
    assert (error.code, error.retryable) == ("provider_rejected", False)
    assert "test_langchain_chains.py" in error.detail
    assert SECRET not in f"{error.message} {error.detail}"


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (Behaviour("429"), "provider_rate_limited"),
        (Behaviour("drop", 3), "provider_interrupted"),
        (Behaviour("end", 3), "provider_interrupted"),
        (Behaviour("garbage", 3), "provider_protocol"),
    ],
    ids=str,
)
async def test_a_models_failure_inside_a_chain_keeps_its_code(
    server: ProviderServer, model: Any, install: Install, behaviour: Behaviour, code: str
) -> None:
    server.script(behaviour)
    assert (await call_it(install(model | StrOutputParser()), model="mine")).code == code


@pytest.mark.parametrize("by", ["cancel", "close"])
async def test_a_chain_that_is_left_closes_its_models_connection(
    server: ProviderServer, model: Any, install: Install, by: str
) -> None:
    server.script(Behaviour("stall", 2))
    assert not (await leave(install(model | StrOutputParser()), server, by=by, model="mine")).answered


def test_nothing_is_traced_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANGSMITH_TRACING", raising=False)
    LangChainProvider(Settings())
    assert os.environ["LANGSMITH_TRACING"] == "false"
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    LangChainProvider(Settings())
    assert os.environ["LANGSMITH_TRACING"] == "true"
