"""Names and ids in a provider's tool calls: whatever they are, what becomes of them can stand in a log."""

import pytest

from shared.errors import ProviderError
from shared.events import encode
from worker.providers.pieces import Pieces


def test_half_a_surrogate_pair_in_a_tools_name_or_id_can_stand_in_a_log() -> None:
    (piece,) = Pieces().tool_call(0, "call\ud83c", "\udf0aname", "{}")
    assert (piece.id, piece.name) == ("call\ufffd", "\ufffdname")
    encode(piece)


@pytest.mark.parametrize("wrong", [7, ["f"], {"a": 1}, True])
def test_a_tools_name_that_is_no_text_is_the_providers_fault(wrong: object) -> None:
    with pytest.raises(ProviderError) as caught:
        Pieces().tool_call(0, "c", wrong, "")
    assert caught.value.code == "provider_protocol"
