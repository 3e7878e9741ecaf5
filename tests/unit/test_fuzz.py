"""A short run of the fuzz program (`make fuzz` is the long one), and that it finds what it is there to find."""

import pytest

from api import sse
from tests.fuzz.frames import frames
from tests.fuzz.running import run
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_breaks_a_reader_of_strangers_bytes_or_a_writer_of_frames(target: str) -> None:
    assert run(range(600), seed=5, only=target) == 600


@pytest.mark.parametrize("ending", [b"\r", b"\n", b"\r\n", b"\n\n", b"\n\nid: 9-9\nevent: done\ndata: {}\n\n"])
def test_the_judge_sees_a_line_that_does_not_belong_there(ending: bytes) -> None:
    body = sse.frame(None, "token", b'{"text":"a"}')
    assert len(frames(body)) == 1
    with pytest.raises(AssertionError):
        frames(sse.frame(None, "token", b'{"text":"a' + ending + b'"}'))
