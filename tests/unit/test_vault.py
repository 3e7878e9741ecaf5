"""Sealed text opens where it was sealed and nowhere else, with any key of the ring and with no other."""

from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import RecordError, SealedError
from shared.ring import RingKey, parse_ring
from shared.storage.sealed import PLAIN
from shared.vault import Vault

OLD, NEW, OTHER = RingKey("old", b"o" * 32), RingKey("new", b"n" * 32), RingKey("new", b"x" * 32)
JOB, PLACE = "acme/0001", "7-3 t"


@given(st.binary(max_size=200))
def test_what_was_sealed_comes_out_as_it_went_in(value: bytes) -> None:
    vault = Vault([NEW, OLD])
    sealed = vault.seal(JOB, PLACE, value)
    assert vault.open(JOB, PLACE, sealed) == value
    assert sealed.startswith("new.")


def test_the_same_text_is_never_sealed_alike_twice() -> None:
    vault = Vault([NEW])
    assert len({vault.seal(JOB, PLACE, b"yes") for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("job", "place"),
    [("acme/0002", PLACE), ("umbra/0001", PLACE), (JOB, "7-4 t"), (JOB, "7-3 r"), (JOB, "7-3 t@5"), (JOB, "request")],
)
def test_a_value_opens_in_its_own_job_and_place_alone(job: str, place: str) -> None:
    vault = Vault([NEW])
    sealed = vault.seal(JOB, PLACE, b"text")
    with pytest.raises(RecordError):
        vault.open(job, place, sealed)


def test_a_value_that_was_changed_is_damaged_and_never_garbage() -> None:
    vault = Vault([NEW])
    kid, _, body = vault.seal(JOB, PLACE, b"text").partition(".")
    raw = b64decode(body)
    for at in range(len(raw)):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(RecordError):
            vault.open(JOB, PLACE, f"{kid}.{b64encode(changed).decode()}")
    for broken in ("", "!", "====", body[:-4], b64encode(b"short").decode()):
        with pytest.raises(RecordError):
            vault.open(JOB, PLACE, f"{kid}.{broken}")


def test_every_key_of_the_ring_opens_and_the_first_one_seals() -> None:
    before = Vault([OLD]).seal(JOB, PLACE, b"before")
    both = Vault([NEW, OLD])
    after = both.seal(JOB, PLACE, b"after")
    assert both.open(JOB, PLACE, before) == b"before"
    assert Vault([NEW]).open(JOB, PLACE, after) == b"after"


def test_a_key_that_is_missing_is_named_and_a_wrong_one_under_its_name_opens_nothing() -> None:
    sealed = Vault([OLD]).seal(JOB, PLACE, b"text")
    with pytest.raises(SealedError) as caught:
        Vault([NEW]).open(JOB, PLACE, sealed)
    assert (caught.value.kid, caught.value.code) == ("old", "storage_unavailable")
    assert "'old'" in str(caught.value)
    with pytest.raises(RecordError):
        Vault([OTHER]).open(JOB, PLACE, Vault([NEW]).seal(JOB, PLACE, b"text"))


def test_a_fingerprint_can_be_compared_after_a_rotation_and_not_be_guessed_without_the_key() -> None:
    before = Vault([OLD]).fingerprint(b"body")
    rotated = Vault([NEW, OLD])
    assert rotated.fingerprint(b"body", before) == before
    assert rotated.fingerprint(b"other body", before) != before
    assert rotated.fingerprint(b"body") != before
    assert Vault([OTHER]).fingerprint(b"body") != Vault([NEW]).fingerprint(b"body")
    with pytest.raises(SealedError):
        Vault([NEW]).fingerprint(b"body", before)


def test_a_fingerprint_from_before_there_was_a_ring_can_be_compared() -> None:
    before = PLAIN.fingerprint(b"body")
    assert Vault([NEW]).fingerprint(b"body", before) == before
    assert Vault([NEW]).fingerprint(b"other body", before) != before


def test_a_ring_is_read_from_a_setting_or_a_file() -> None:
    one, two = b64encode(b"1" * 32).decode(), b64encode(b"2" * 32).decode()
    ring = parse_ring(f"2026-11:{one},\n# the old one\n a:{two}\n\n", "X")
    assert [(key.id, key.secret) for key in ring] == [("2026-11", b"1" * 32), ("a", b"2" * 32)]
    assert parse_ring("", "X") == []
    assert "1111" not in repr(ring)


@pytest.mark.parametrize(
    "text",
    ["secret-canary", "a:secret-canary", "a:c2hvcnQ=", f"a b:{b64encode(b'1' * 32).decode()}",
     f"a:{b64encode(b'1' * 31).decode()}", f"{'a' * 17}:{b64encode(b'1' * 32).decode()}",
     ",".join(f"a:{b64encode(b * 32).decode()}" for b in (b"1", b"2"))],
)  # fmt: skip
def test_a_ring_that_is_none_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"^X ") as caught:
        parse_ring(text, "X")
    assert "canary" not in str(caught.value)
    assert b64encode(b"1" * 16).decode()[:12] not in str(caught.value)
