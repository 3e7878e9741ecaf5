"""A provider whose tokens are the moments at which they were sent: OpenAI's wire format, raw asyncio, nothing else.

`python -m benchmarks.stamping_provider` prints its port. Each token's text is CLOCK_MONOTONIC in ns and a blank, so any
process of the machine can tell how long the token was under way. `rate:<per second>` in the prompt paces it.
"""

import asyncio
import json
import os
import re
import sys
import time

TOKENS = 20


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    body = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "bench",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    frame = b"data: " + json.dumps(body).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(frame), frame)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length.group(1)) if length else 0)
            rate = re.search(rb"rate:(\d+)", body)
            await _answer(writer, 1 / int(rate.group(1)) if rate else 0.0)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _answer(writer: asyncio.StreamWriter, gap_s: float) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(TOKENS):
        if gap_s:
            await asyncio.sleep(gap_s)
        writer.write(_chunk({"content": f"{time.monotonic_ns()} "}))
        await writer.drain()
    writer.write(_chunk({}, "stop") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    await writer.drain()


async def _main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    parent = os.getppid()
    async with server:
        while os.getppid() == parent:  # noqa: ASYNC110 - it ends with whoever started it, and nobody tells it
            await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(_main())
