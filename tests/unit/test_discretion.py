"""A log holds our own words and the places of others': never a text that somebody else has put into an exception."""

import json
import logging
import subprocess
import sys

import pytest

from shared.discretion import trace, words
from shared.errors import ProviderError, StorageError
from shared.telemetry import printable

CANARY = "canary-7Q"

PROGRAM = f"""
import asyncio, logging, threading, warnings
from shared.telemetry import set_up_logging
set_up_logging("debug", "json")
secret = "{CANARY}\\r\\n{{}}"
for name in ("openai._base_client", "httpx2", "anthropic", "aiohttp.client", "langchain_core.x", "botocore.parsers"):
    for level in (10, 20, 30, 40, 50):
        logging.getLogger(name).log(level, "Request options: %s", secret)
        logging.getLogger(name).log(level, secret)
logging.getLogger("openai").setLevel(10)
logging.getLogger("openai._base_client").debug("body %s", secret)
logging.getLogger("arq.worker").info("args %s", secret)
logging.getLogger("api.x").info("ours\\r\\nand a second line")
logging.getLogger("api.x").info("%s %s", "arguments that do not fit: " + secret)
warnings.warn(secret)
try:
    try:
        int(secret)
    except ValueError as error:
        raise RuntimeError(secret) from error
except RuntimeError:
    logging.getLogger("worker.x").exception("broke")

async def lost():
    asyncio.ensure_future(breaks(secret))
    asyncio.get_running_loop().call_soon(breaks_now, secret)
    await asyncio.sleep(0.01)

async def breaks(secret):
    raise KeyError(secret)

def breaks_now(secret):
    raise KeyError(secret)

asyncio.run(lost())
thread = threading.Thread(target=breaks_now, args=(secret,))
thread.start()
thread.join()

class Unraisable:
    def __del__(self):
        raise KeyError(secret)

Unraisable()
raise ExceptionGroup(secret, [KeyError(secret), OSError(2, secret, secret)])
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_whatever_a_process_prints_by_itself_is_a_line_of_its_log_without_anybodys_text(form: str) -> None:
    program = PROGRAM.replace('"json"', f'"{form}"')
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert CANARY not in done.stderr
    assert done.stdout == ""
    assert done.returncode == 1
    if form == "json":
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        said = [(line["logger"], line["message"]) for line in lines]
        assert ("api.x", "ours\r\nand a second line") in said
        assert ("worker.x", "broke") in said
        assert ("asyncio", "Task exception was never retrieved") in said
        assert ("tailrace", "not caught: ExceptionGroup") in said
        assert len([line for line in lines if "KeyError" in line.get("traceback", "")]) >= 4
        assert any(message.startswith("UserWarning at") for _, message in said)
        broke = next(line for line in lines if line["message"] == "broke")["traceback"]
        assert broke.index("ValueError") < broke.index("RuntimeError")
        assert "in <module>" in broke


def test_an_exception_of_ours_says_what_it_is_and_keeps_its_detail_to_itself() -> None:
    assert "storage_full" in trace(StorageError("storage_full"))
    shown = trace(ProviderError("provider_auth", detail=CANARY))
    assert "provider_auth" in shown
    assert CANARY not in shown


def test_a_chain_of_causes_that_bites_its_tail_ends() -> None:
    one, two = KeyError(CANARY), KeyError(CANARY)
    one.__cause__, two.__cause__ = two, one
    assert trace(one).count("KeyError") == 2
    deep: BaseException = KeyError(CANARY)
    for _ in range(10_000):
        after = KeyError(CANARY)
        after.__cause__ = deep
        deep = after
    assert trace(deep).count("KeyError") <= 16


def test_a_chains_author_may_turn_on_a_logger_of_his_own() -> None:
    logger = logging.getLogger("my_chain.inner")
    record = logger.makeRecord(logger.name, logging.WARNING, "chain.py", 7, "said %s", ("this",), None)
    assert words(record) == "(words withheld, chain.py:7)"
    logging.getLogger("my_chain").setLevel(logging.INFO)
    try:
        assert words(record) == "said this"
    finally:
        logging.getLogger("my_chain").setLevel(logging.NOTSET)


def test_a_line_of_text_has_nothing_that_a_terminal_obeys() -> None:
    assert printable("plain, ü and 🌊") == "plain, ü and 🌊"
    odd = "a\r\n\x1b[2J\x9b2J\u202eb\u2066c\u2028d\ud800"
    shown = printable(odd)
    assert shown.isprintable()
    assert shown == r"a\r\n\x1b[2J\x9b2J\u202eb\u2066c\u2028d\ud800"
