"""Reading a vendor's response: frames come out whole however the network cuts them."""

import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProviderError
from shared.settings import Settings
from worker.providers import outward, wire

BODY = (
    ': hello\n\nevent: message\ndata: {"a": "é🌊"}\n\ndata:x\ndata: y\r\nid: 7\r\n\r\n'
    "retry: 5\n\n\n\ndata\n\ndata: [DONE]\n\ndata: cut off"
).encode()
FRAMES = ['{"a": "é🌊"}'.encode(), b"x\ny", b"[DONE]"]


@given(st.lists(st.integers(0, len(BODY)), max_size=12).map(sorted))
def test_frames_are_the_same_however_the_body_is_cut(cuts: list[int]) -> None:
    decoder = wire.Decoder()
    edges = [0, *cuts, len(BODY)]
    parts = [BODY[start:end] for start, end in pairwise(edges)]
    assert [frame for part in parts for frame in decoder.feed(part)] == FRAMES


def test_a_line_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 100)
    decoder = wire.Decoder()
    decoder.feed(b"data: " + b"x" * 90)
    with pytest.raises(ProviderError) as caught:
        decoder.feed(b"x" * 90)
    assert caught.value.code == "provider_protocol"


def test_half_a_surrogate_pair_can_be_read_and_garbage_cannot() -> None:
    decoder = msgspec.json.Decoder(dict[str, str])
    assert wire.decode(b'{"a": "\\ud83c"}', decoder) == {"a": "\ud83c"}
    for garbage in (b'{"a": ', b'{"a": 1}', b'{"a": "\xff"}'):
        with pytest.raises((msgspec.DecodeError, json.JSONDecodeError, UnicodeDecodeError)):
            wire.decode(garbage, decoder)


def test_the_callers_time_outs_are_always_the_shorter_ones() -> None:
    settings = Settings(first_token_timeout_s=300, between_token_timeout_s=40)
    assert (outward.timeouts(settings).read or 0) > 300
