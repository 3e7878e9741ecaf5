"""OpenAI's Responses API in background mode for the local provider server.

A response generates on its own clock, whether or not somebody reads it, and keeps every event, so that anybody may
read it from any place. A fault of a behaviour breaks the connection that reads, after so many pieces on it, and `times`
counts connections; three are the response's own: `failed` (it ends as failed), `forgotten` (the connection breaks, and
the response is not known any more) and `error` (an error event in it, not in the connection).
"""

import asyncio
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from tests.support.provider_behaviour import Behaviour, behaviour
from tests.support.provider_frames import INPUT_TOKENS, SECRET, text_pieces
from tests.support.provider_http import Connection, Request

PATH = "/v1/responses"
_KNOWN = {
    *("model", "input", "background", "stream", "store", "instructions", "temperature", "max_output_tokens", "text"),
    *("reasoning", "tools", "tool_choice", "parallel_tool_calls", "top_p", "service_tier", "prompt_cache_key"),
    "safety_identifier",
}
_OWN_FAULTS = {"failed", "forgotten", "error"}
_IDS = (("x-request-id", "req_1"),)
_JSON = ("content-type", "application/json")
_EVENTS = (("content-type", "text/event-stream; charset=utf-8"), ("transfer-encoding", "chunked"), *_IDS)


@dataclass(eq=False)
class Kept:
    """One response: its events so far, and what was asked of it."""

    id: str
    body: dict[str, Any]
    how: Behaviour
    frames: list[bytes] = field(default_factory=list)
    content: list[bool] = field(default_factory=list)
    """Which of the frames are content."""
    status: str = "queued"
    reads: list[int | None] = field(default_factory=list)
    """`starting_after` of each reading but the first."""
    connections: int = 0
    cancels: int = 0
    known: bool = True
    more: asyncio.Condition = field(default_factory=asyncio.Condition)
    task: "asyncio.Task[None] | None" = None

    @property
    def over(self) -> bool:
        """Whether its last event is there."""
        return self.status not in {"queued", "in_progress"}

    def has_news(self, at: int) -> bool:
        """Whether a reader that has `at` events need wait no longer."""
        return len(self.frames) > at or self.over or not self.known

    def summary(self) -> dict[str, Any]:
        """What `GET /background` shows."""
        return {"id": self.id, "model": self.body["model"], "status": self.status, "reads": self.reads,
                "cancels": self.cancels, "events": len(self.frames)}  # fmt: skip

    def shown(self, **more: Any) -> dict[str, Any]:
        """The response object."""
        return {"id": self.id, "object": "response", "created_at": 1, "model": self.body["model"], "output": [],
                "status": self.status, "background": True, "error": None, "incomplete_details": None, "usage": None,
                "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "metadata": {}, **more}  # fmt: skip

    async def say(self, kind: str, *, content: bool = False, **fields: Any) -> None:
        """Add an event."""
        event = {"type": kind, "sequence_number": len(self.frames), **fields}
        try:
            data = json.dumps(event, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            data = json.dumps(event).encode()
        async with self.more:
            self.frames.append(f"event: {kind}\n".encode() + b"data: " + data + b"\n\n")
            self.content.append(content)
            self.more.notify_all()


class Background:
    """The responses of one server."""

    def __init__(self) -> None:
        self._count = itertools.count(1)
        self.kept: list[Kept] = []

    @property
    def reads(self) -> list[int | None]:
        """`starting_after` of every reading but the first, over all responses."""
        return [after for kept in self.kept for after in kept.reads]

    @property
    def cancels(self) -> int:
        """How many were cancelled, repetitions included."""
        return sum(kept.cancels for kept in self.kept)

    async def close(self) -> None:
        """End what still generates."""
        tasks = [kept.task for kept in self.kept if kept.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for kept in self.kept:
            await _forget(kept)

    async def forget(self, model: str) -> None:
        """Lose what was begun for a model: connections break, and its ids are unknown."""
        for kept in self.kept:
            if kept.body["model"] == model:
                await _forget(kept)

    async def create(self, connection: Connection, request: Request, how: Behaviour) -> None:
        """Begin a response and stream it."""
        unknown = sorted(request.body.keys() - _KNOWN)
        if unknown or not request.body.get("background") or not request.body.get("stream"):
            _refuse(connection, 400, f"not ours: {unknown}")
            return
        kept = Kept(f"resp_{next(self._count)}", request.body, how)
        self.kept.append(kept)
        kept.task = asyncio.ensure_future(_generate(kept))
        await self._stream(connection, request, kept, 0)

    async def other(self, connection: Connection, request: Request) -> None:
        """Read a response again, or cancel it."""
        name, _, act = request.path.removeprefix(PATH + "/").partition("/")
        kept = next((kept for kept in self.kept if kept.id == name and kept.known), None)
        if kept is None:
            _refuse(connection, 404, "no such response")
        elif act == "cancel" and request.method == "POST":
            kept.cancels += 1
            await _cancel(kept)
            connection.whole(200, json.dumps(kept.shown()).encode(), _JSON, *_IDS)
        elif parse_qs(request.query).get("stream") != ["true"]:
            connection.whole(200, json.dumps(kept.shown()).encode(), _JSON, *_IDS)
        else:
            after = parse_qs(request.query).get("starting_after")
            kept.reads.append(int(after[0]) if after else None)
            await self._stream(connection, request, kept, int(after[0]) + 1 if after else 0)

    async def _stream(self, connection: Connection, request: Request, kept: Kept, at: int) -> None:
        connection.head(200, *_EVENTS)
        kept.connections += 1
        how = kept.how
        breaks = bool(how.fault) and how.fault not in _OWN_FAULTS and not 0 < how.times < kept.connections
        pieces = 0
        while True:
            async with kept.more:
                await kept.more.wait_for(partial(kept.has_news, at))
            while at < len(kept.frames):
                if breaks and kept.content[at] and pieces == how.after:
                    await _break(connection, request, how)
                    return
                for part in [kept.frames[at]] if how.cut != "utf8" else [bytes([byte]) for byte in kept.frames[at]]:
                    connection.chunk(part)
                pieces += kept.content[at]
                at += 1
            if request.left.is_set():
                return
            if not kept.known:
                await _break(connection, request, Behaviour("drop"))
                return
            if kept.over:
                connection.write(b"0\r\n\r\n")
                connection.end()
                return


async def _break(connection: Connection, request: Request, how: Behaviour) -> None:
    match how.fault:
        case "stall":
            await request.left.wait()
            return
        case "drop":
            await connection.flush()
            connection.abort()
            return
        case "garbage":
            connection.chunk(b'event: response.output_text.delta\ndata: {"type": "resp\n\n')
        case "broken":  # an error of this connection, not of the response
            error = {"type": "error", "code": "server_error", "message": SECRET, "param": None}
            connection.chunk(b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n")
    connection.write(b"0\r\n\r\n")
    connection.end()


async def _cancel(kept: Kept) -> None:
    if kept.over:
        return
    if kept.task is not None:
        kept.task.cancel()
    kept.status = "cancelled"
    await kept.say("response.incomplete", response=kept.shown())


def _refuse(connection: Connection, status: int, message: str) -> None:
    error = {"message": f"{SECRET}: {message}", "type": "invalid_request_error", "param": None, "code": None}
    connection.whole(status, json.dumps({"error": error}).encode(), _JSON, *_IDS)


async def _generate(kept: Kept) -> None:
    how, now = kept.how, asyncio.get_running_loop().time
    await kept.say("response.created", response=kept.shown())
    await kept.say("response.queued", response=kept.shown())
    started = now() + how.first_ms / 1000
    await asyncio.sleep(how.first_ms / 1000)
    kept.status = "in_progress"
    await kept.say("response.in_progress", response=kept.shown())
    spoken = 0
    for kind, content, fields in _events(kept):
        if content and how.fault in _OWN_FAULTS and spoken == how.after:
            await _fail(kept, how.fault)
            return
        if content:
            await asyncio.sleep(max(0.0, started + (spoken / how.rate if how.rate else 0) - now()))
            spoken += 1
        await kept.say(kind, content=content, **fields)
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": spoken, "total_tokens": INPUT_TOKENS + spoken,
             "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
             "output_tokens_details": {"reasoning_tokens": len(how.reasoning)}}  # fmt: skip
    kept.status = "incomplete" if how.finish else "completed"
    details = {"reason": how.finish} if how.finish else None
    shown = kept.shown(usage=usage if how.usage else None, incomplete_details=details)
    await kept.say(f"response.{kept.status}", response=shown)


async def _forget(kept: Kept) -> None:
    async with kept.more:
        kept.known = False
        kept.more.notify_all()


async def _fail(kept: Kept, fault: str) -> None:
    if fault == "forgotten":
        await _forget(kept)
    elif fault == "error":
        await kept.say("error", **{"code": "server_error", "message": SECRET, "param": None, **(kept.how.error or {})})
        kept.status = "failed"
        async with kept.more:
            kept.more.notify_all()
    else:
        kept.status = "failed"
        error = kept.how.error or {"code": "server_error", "message": SECRET}
        await kept.say("response.failed", response=kept.shown(error=error))


def _events(kept: Kept) -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """The events between the first and the last: type, whether it is content, fields."""
    how, output = kept.how, itertools.count()
    if how.reasoning:
        place: dict[str, Any] = {"item_id": "rs_1", "output_index": next(output)}
        yield "response.output_item.added", False, {**place, "item": {"id": "rs_1", "type": "reasoning", "summary": []}}
        for text in how.reasoning:
            yield "response.reasoning_summary_text.delta", True, {**place, "summary_index": 0, "delta": text}
    if pieces := text_pieces(chat(kept.body), how):
        place = {"item_id": "msg_1", "output_index": next(output)}
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        yield "response.output_item.added", False, {**place, "item": item}
        for text in pieces:
            yield "response.output_text.delta", True, {**place, "content_index": 0, "delta": text, "logprobs": []}
        yield "response.output_text.done", False, {**place, "content_index": 0, "text": "".join(pieces)}
    for tool in how.tools:
        place = {"item_id": f"fc_{tool.id}", "output_index": next(output)}
        item = {"id": place["item_id"], "type": "function_call", "call_id": tool.id, "name": tool.name, "arguments": ""}
        yield "response.output_item.added", True, {**place, "item": item}
        for text in tool.arguments:
            yield "response.function_call_arguments.delta", True, {**place, "delta": text}


def chat(body: dict[str, Any]) -> dict[str, Any]:
    """A request in the shape of chat completions: what it asks for follows from its words there as well."""
    messages = [item for item in body["input"] if "role" in item]
    return {"model": body["model"], "messages": messages}


def asked(body: dict[str, Any]) -> Behaviour:
    """The behaviour that a request asks for in its own words."""
    return behaviour(chat(body))
