"""No log line of any process, at any level, holds a prompt, an answer, a key or a provider's body."""

import json
from urllib.parse import quote

import pytest

from tests.acceptance.conftest import ClusterFactory
from tests.support.cluster import Cluster
from tests.support.provider_behaviour import Behaviour, ToolUse
from tests.support.provider_frames import SECRET
from tests.support.provider_server import ProviderServer
from tests.support.wire import Json, Wire, scripted

PROMPT, ANSWER, API_KEY, VENDOR_KEY = "canary-prompt-7Q", "canary-answer-7Q", "canary-api-key-7Q", "sk-canary-vendor-7Q"
TENANT_KEY, QUERY, HEADER, BODY = "sk-canary-tenant-7Q", "canary-query-7Q", "canary-header-7Q", "canary-body-7Q"
RING_KEY = "Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5MDA="
CANARIES = (PROMPT, ANSWER, API_KEY, VENDOR_KEY, TENANT_KEY, QUERY, HEADER, BODY, SECRET, "canary", RING_KEY[:8])
MODELS = {"openai": "gpt-x", "anthropic": "claude-x", "langchain": "openai:gpt-y"}
HOSTILE = {"message": BODY, "type": BODY, "code": BODY, "param": BODY}
FAULTS = [
    Behaviour(pieces=(f"{ANSWER} ", ANSWER), reasoning=(ANSWER,), tools=(ToolUse("c", ANSWER, (f'"{ANSWER}"',)),)),
    *[Behaviour(status, error=HOSTILE, headers=(("x-request-id", BODY),)) for status in ("400", "401", "500")],
    *[Behaviour(status) for status in ("400", "401", "403", "404", "413", "422", "500", "503", "529", "quota")],
    *[Behaviour(kind, 1, pieces=(f"{ANSWER} ", ANSWER)) for kind in ("garbage", "drop", "end")],
    Behaviour("error", 1, pieces=(f"{ANSWER} ", ANSWER), error=HOSTILE),
    Behaviour("page"),
]
LOUD = {
    "TAILRACE_LOG_LEVEL": "debug",
    "TAILRACE_LOG_FORMAT": "json",
    "TAILRACE_API_KEYS": f"acme:{API_KEY}",
    "TAILRACE_PROVIDER_TRIES": "1",
    "TAILRACE_CIRCUIT_FAILURES": "0",
    "OPENAI_LOG": "debug",
    "ANTHROPIC_LOG": "debug",
    "PYTHONASYNCIODEBUG": "1",
}


async def _vendors(wire: Wire, provider: ProviderServer) -> list[str]:
    """Every fault of every provider; what clients were told of them."""
    told: list[str] = []
    for name, model in MODELS.items():
        for fault in FAULTS:
            provider.script(fault)
            asked: Json = {"provider": name, "model": model, "prompt": PROMPT, "system": PROMPT}
            answer = await wire.create({**asked, "metadata": {"note": PROMPT}, "on_interrupt": "fail"})
            assert answer.status_code == 202, answer.text
            log = await wire.log(answer.json()["id"])
            if log.last.event == "failed":
                told.append(log.last.data)
                told.append(json.dumps((await wire.show(answer.json()["id"]))["error"]))
    assert len(told) > 2 * len(FAULTS)
    return told


async def _bad_callers(cluster: Cluster, wire: Wire) -> tuple[list[str], str]:
    """Requests that are refused, with canaries wherever a request has room; what was answered, and a token used."""
    told: list[str] = []
    async with Wire(cluster.url, "canary-wrong-key-7Q") as stranger:
        told.append((await stranger.ask("GET", "/jobs")).text)
    job = await wire.submit(ANSWER, prompt=PROMPT)
    token = (await wire.ask("POST", f"/jobs/{job}/tokens", {"rights": ["read"]})).json()["token"]
    async with Wire(cluster.url) as nobody:
        for path in (f"/jobs/{job}", f"/jobs/{job}/events"):
            for given in (token, QUERY, f"{token}{QUERY}", "%0d%0acanary"):
                answer = await nobody.ask("GET", f"{path}?token={quote(given, safe='%')}")
                if answer.status_code != 200:
                    told.append(answer.text)
    bodies = (f'{{"prompt": "{PROMPT}', f'["{PROMPT}"]', f'{{"provider": "openai", "prompt": "{PROMPT}"}}')
    told += [(await wire.ask("POST", "/jobs", content=body.encode())).text for body in bodies]
    raw = (
        f"GET /jobs/{HEADER}?x={QUERY} HTTP/1.1\r\nHost: x\r\nX-Request-Id: {HEADER}\n{{}}\r\n"
        f"Last-Event-ID: {HEADER}\r\nAuthorization: Bearer {API_KEY}\r\nConnection: close\r\n\r\n"
    )
    await wire.raw(raw.encode())
    await wire.raw(f"{QUERY} {HEADER}\r\nCanary: {HEADER}\x00\r\n\r\n".encode())
    return told, token


def _lines(cluster: Cluster, token: str) -> list[Json]:
    """Every log line of every process, as JSON; AssertionError for one that is none, or holds what it must not."""
    lines: list[Json] = []
    for process in (*cluster.apis, *cluster.workers):
        for line in process.log.splitlines():
            assert not [canary for canary in (*CANARIES, token) if canary in line], line
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                pytest.fail(f"{process.name} has a line that is no event: {line!r}")
    return lines


@pytest.mark.parametrize("sealed", [False, True], ids=["in clear", "sealed"])
async def test_at_the_debug_level_no_process_logs_what_it_was_told(
    cluster_of: ClusterFactory, provider_server: ProviderServer, tmp_path_factory: pytest.TempPathFactory, sealed: bool
) -> None:
    keys = tmp_path_factory.mktemp("keys") / "providers"
    keys.write_text(f"acme:openai:{TENANT_KEY}\n")
    vendors = {**provider_server.environment, "OPENAI_API_KEY": VENDOR_KEY, "ANTHROPIC_API_KEY": VENDOR_KEY}
    env = {**vendors, **LOUD, "TAILRACE_PROVIDER_KEYS_FILE": str(keys)}
    if sealed:
        env["TAILRACE_ENCRYPTION_KEYS"] = f"k1:{RING_KEY}"
    cluster = cluster_of(env=env)
    async with Wire(cluster.url, API_KEY) as wire:
        told = await _vendors(wire, provider_server)
        answers, token = await _bad_callers(cluster, wire)
        told += answers
        await wire.ended(await wire.submit(params={"text": ANSWER, "tokens": 40}, prompt=PROMPT))
        await wire.create(scripted(ANSWER, prompt=PROMPT), key="canary-idempotency-7Q")
    for process in (*cluster.apis, *cluster.workers):
        assert process.terminate() == 0
    sent = {request.headers.get("authorization") for request in provider_server.requests}
    assert f"Bearer {TENANT_KEY}" in sent
    assert not [answer for answer in told if any(canary in answer for canary in (*CANARIES[:6], BODY, SECRET))]
    lines = _lines(cluster, token)
    assert {line["level"] for line in lines} >= {"info"}
    assert [line for line in lines if "provider_rejected" in line["message"]]
