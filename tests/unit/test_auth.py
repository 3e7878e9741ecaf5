"""Where a node may listen: without keys on loopback only, with keys anywhere."""

import pytest

from api.auth import refuse_unsafe_binding
from shared.errors import TailraceError
from shared.settings import Settings

LOOPBACK = ("127.0.0.1", "127.0.0.2", "127.255.255.254", "localhost", "::1", "[::1]", "0:0:0:0:0:0:0:1")
BEYOND = (
    "0.0.0.0", "::", "[::]", "", "10.0.0.5", "192.168.1.1", "169.254.169.254", "fe80::1", "2001:db8::1",
    "example.com", "localhost.example.com", "127.0.0.1.example.com", "127.1", "0", "2130706433", " 127.0.0.1",
)  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK)
def test_an_open_node_may_listen_on_loopback(host: str) -> None:
    refuse_unsafe_binding(Settings(host=host, api_keys=""))


@pytest.mark.parametrize("host", BEYOND)
@pytest.mark.parametrize("api_keys", ["", " ", ",", " , "])
def test_an_open_node_never_listens_beyond_loopback(host: str, api_keys: str) -> None:
    with pytest.raises(TailraceError, match="TAILRACE_API_KEYS") as caught:
        refuse_unsafe_binding(Settings(host=host, api_keys=api_keys))
    assert caught.value.code == "unauthorized"


@pytest.mark.parametrize("host", LOOPBACK + BEYOND)
def test_a_node_with_keys_may_listen_anywhere(host: str) -> None:
    refuse_unsafe_binding(Settings(host=host, api_keys="acme:s3cret"))


def test_keys_that_cannot_be_read_open_nothing() -> None:
    with pytest.raises(ValueError, match="TAILRACE_API_KEYS"):
        refuse_unsafe_binding(Settings(host="127.0.0.1", api_keys="s3cret"))
