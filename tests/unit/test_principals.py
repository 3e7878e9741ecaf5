"""API keys: what they are made of, what is stored of them, and what may be used for what."""

import math

import pytest

from shared.principals import ALL_RIGHTS, MIN_KEY_CHARACTERS, Right, digest_of, key_id_of, new_key, parse_chosen

NOW_MS = 1_763_800_000_000


def test_a_key_has_at_least_128_random_bits_and_no_two_are_alike() -> None:
    made = [new_key("acme", ALL_RIGHTS, NOW_MS) for _ in range(500)]

    secrets = {
        written.rpartition("_")[2] if written.count("_") == 2 else written.split("_", 2)[2] for written, _ in made
    }
    assert len(secrets) == len({key.id for _, key in made}) == 500
    assert min(len(secret) for secret in secrets) * math.log2(64) >= 128


def test_what_is_stored_of_a_key_opens_nothing() -> None:
    written, key = new_key("acme", ALL_RIGHTS, NOW_MS)
    secret = written.removeprefix(f"tr_{key.id}_")

    assert secret not in repr(key)
    assert key.fits(written)
    assert not key.fits(key.digest)
    assert not key.fits(written[:-1])
    assert not key.fits(written + "x")
    assert key_id_of(written) == key.id


@pytest.mark.parametrize(
    "given", ["", "tr_", "tr_abc_def", "Bearer x", "tr_aaaaaaaaaaaa_" + "ü" * 43, "\n", "x" * 10_000]
)
def test_what_is_no_key_names_none(given: str) -> None:
    assert key_id_of(given) is None


def test_a_key_lives_until_it_expires_or_is_revoked() -> None:
    _, key = new_key("acme", ALL_RIGHTS, NOW_MS, expires_ms=NOW_MS + 10)

    assert key.lives(NOW_MS + 9)
    assert not key.lives(NOW_MS + 10)


def test_a_key_may_do_what_it_was_made_for_and_nothing_else() -> None:
    _, key = new_key("acme", frozenset({Right.READ}), NOW_MS)

    assert [right for right in Right if key.principal().may(right)] == [Right.READ]


def test_chosen_keys_are_read_from_lines_and_commas_alike() -> None:
    table = parse_chosen("# ours\nacme:one, umbrella:two\n\n acme:three \n", "FILE")

    assert {(key.tenant, digest) for digest, key in table.items()} == {
        ("acme", digest_of("one")),
        ("umbrella", digest_of("two")),
        ("acme", digest_of("three")),
    }


@pytest.mark.parametrize(
    "text", ["s3cret", "acme:", ":key", "ac me:key", "ac/me:key", "x" * 65 + ":key", "acme:a,umbrella:a"]
)
def test_a_wrong_line_is_refused_without_showing_a_key(text: str) -> None:
    with pytest.raises(ValueError, match="SETTING") as caught:
        parse_chosen(f"good:visible-one,{text}", "SETTING")
    assert "visible-one" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(("length", "weak"), [(MIN_KEY_CHARACTERS - 1, True), (MIN_KEY_CHARACTERS, False)])
def test_a_key_that_can_be_guessed_is_called_weak(length: int, weak: bool) -> None:
    (key,) = parse_chosen(f"acme:{'k' * length}", "SETTING").values()
    assert key.weak == weak
