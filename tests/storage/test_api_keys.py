"""API keys in the store, and the nodes' keyring: a key opens and closes every door without a restart."""

import asyncio
import time
from typing import Any

import pytest

from api import keyring as keyring_module
from api.keyring import Keyring
from shared.errors import StorageError, TailraceError
from shared.jobs import JobKey, new_job_id
from shared.principals import ALL_RIGHTS, OPEN, Right, new_key
from shared.settings import Settings
from shared.storage import keys
from shared.storage.api_keys import ApiKeys
from tests.storage.conftest import Stores
from tests.support.loops import running

NOW_MS = 1_763_800_000_000


@pytest.fixture
def api_keys(stores: Stores) -> ApiKeys:
    """The keys of an empty store."""
    return ApiKeys(stores.redis)


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown key is looked for however soon after the last look."""
    monkeypatch.setattr(keyring_module, "_LOOK_AGAIN_S", 0.0)


async def _opened(store: ApiKeys, **settings: Any) -> Keyring:
    keyring = Keyring(store, Settings(**settings))
    await keyring.open_up()
    return keyring


async def _refused(keyring: Keyring, given: str) -> bool:
    try:
        await keyring.principal(given)
    except TailraceError as error:
        return error.code == "unauthorized"
    return False


async def test_without_any_key_a_node_on_loopback_serves_everybody(api_keys: ApiKeys) -> None:
    keyring = await _opened(api_keys)
    assert await keyring.principal("") == OPEN
    assert await keyring.principal("whatever") == OPEN


async def test_without_any_key_a_node_beyond_loopback_does_not_start(api_keys: ApiKeys) -> None:
    with pytest.raises(TailraceError, match="tailrace keys create"):
        await _opened(api_keys, host="0.0.0.0")


async def test_a_key_of_the_store_is_enough_to_listen_beyond_loopback(api_keys: ApiKeys) -> None:
    written, key = new_key("acme", ALL_RIGHTS, NOW_MS)
    await api_keys.add(key)

    keyring = await _opened(api_keys, host="0.0.0.0")

    assert (await keyring.principal(written)).tenant == "acme"
    assert await _refused(keyring, "")


async def test_the_first_key_closes_a_node_that_was_open(api_keys: ApiKeys) -> None:
    keyring = await _opened(api_keys)
    written, key = new_key("acme", ALL_RIGHTS, NOW_MS)
    await api_keys.add(key)
    await keyring.refresh()

    assert await _refused(keyring, "")
    assert (await keyring.principal(written)).id == key.id


async def test_a_key_that_was_made_just_now_opens_at_once(api_keys: ApiKeys) -> None:
    keyring = await _opened(api_keys, api_keys="umbrella:chosen")
    written, key = new_key("acme", frozenset({Right.READ}), NOW_MS)
    await api_keys.add(key)

    principal = await keyring.principal(written)

    assert (principal.tenant, principal.rights) == ("acme", frozenset({Right.READ}))


async def test_all_who_come_with_a_key_that_was_made_just_now_wait_for_one_look(
    api_keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring_module, "_LOOK_AGAIN_S", 0.05)
    keyring = await _opened(api_keys, api_keys="umbrella:chosen")
    written, key = new_key("acme", ALL_RIGHTS, NOW_MS)
    await api_keys.add(key)
    looks, version = 0, api_keys.version

    async def counted() -> int:
        nonlocal looks
        looks += 1
        return await version()

    monkeypatch.setattr(api_keys, "version", counted)
    found = await asyncio.gather(*(keyring.principal(written) for _ in range(20)))
    assert [principal.id for principal in found] == [key.id] * 20
    assert looks == 1


async def test_a_store_that_is_away_is_not_asked_for_each_unknown_key(
    away: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring_module, "_LOOK_AGAIN_S", 0.05)
    keyring, looks = await _opened(away, api_keys="umbrella:chosen"), 0

    async def counted() -> int:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.01)
        raise StorageError("storage_unavailable")

    monkeypatch.setattr(away, "version", counted)
    written, _ = new_key("acme", ALL_RIGHTS, NOW_MS)
    assert all(await asyncio.gather(*(_refused(keyring, written) for _ in range(20))))
    assert looks == 1


async def test_a_revoked_key_opens_nothing_and_revoking_the_last_one_opens_no_door(api_keys: ApiKeys) -> None:
    written, key = new_key("acme", ALL_RIGHTS, NOW_MS)
    await api_keys.add(key)
    keyring = await _opened(api_keys)
    assert not await _refused(keyring, written)

    assert await api_keys.revoke(key.id, NOW_MS) is not None
    assert await api_keys.revoke(key.id, NOW_MS + 5) == await api_keys.revoke(key.id, NOW_MS)
    await keyring.refresh()

    assert await _refused(keyring, written)
    assert await _refused(keyring, "")
    assert await _refused(await _opened(api_keys), "")


async def test_a_store_that_has_lost_its_keys_opens_no_door(api_keys: ApiKeys, stores: Stores) -> None:
    written, key = new_key("acme", ALL_RIGHTS, NOW_MS)
    await api_keys.add(key)
    keyring = await _opened(api_keys)
    await stores.redis.flushdb()
    await keyring.refresh()
    assert await _refused(keyring, written)
    assert await _refused(keyring, "")


async def test_nodes_agree_again_on_what_they_sign_with_after_the_store_has_lost_it(
    api_keys: ApiKeys, stores: Stores
) -> None:
    old, job = await _opened(api_keys, api_keys="acme:chosen"), JobKey("acme", new_job_id())
    await stores.redis.flushdb()
    new = await _opened(api_keys, api_keys="acme:chosen")
    await old.refresh()
    for one, other in ((old, new), (new, old)):
        token = one.mint(job, await one.principal("chosen"), ALL_RIGHTS, int(time.time()) + 60)
        assert (await other.principal(token)).job_id == job.id


async def test_a_rotation_counts_whatever_the_operators_clock_says(api_keys: ApiKeys) -> None:
    await api_keys.rotate(NOW_MS, 1000)
    made = await api_keys.rotate(NOW_MS - 3_600_000, 1000)
    assert (await api_keys.signing_keys())[0] == made


async def test_two_keys_of_a_tenant_live_side_by_side(api_keys: ApiKeys) -> None:
    made = [new_key("acme", ALL_RIGHTS, NOW_MS + n) for n in range(2)]
    for _, key in made:
        await api_keys.add(key)
    keyring = await _opened(api_keys)

    assert [(await keyring.principal(written)).id for written, _ in made] == [key.id for _, key in made]
    assert [key.id for key in await api_keys.all()] == [key.id for _, key in made]


async def test_an_expired_key_opens_nothing(api_keys: ApiKeys) -> None:
    written, key = new_key("acme", ALL_RIGHTS, NOW_MS, expires_ms=NOW_MS + 1)
    await api_keys.add(key)
    assert await _refused(await _opened(api_keys), written)


async def test_a_key_with_the_id_of_one_and_the_secret_of_another_opens_nothing(api_keys: ApiKeys) -> None:
    (one, first), (other, second) = (new_key("acme", ALL_RIGHTS, NOW_MS) for _ in range(2))
    await api_keys.add(first)
    await api_keys.add(second)
    keyring = await _opened(api_keys)
    assert await _refused(keyring, other.replace(second.id, first.id))
    assert not await _refused(keyring, one)


async def test_revoking_what_is_not_there_says_so(api_keys: ApiKeys) -> None:
    assert await api_keys.revoke("nothing", NOW_MS) is None


async def test_no_secret_is_in_the_store(api_keys: ApiKeys, stores: Stores) -> None:
    written, key = new_key("acme", ALL_RIGHTS, NOW_MS)
    await api_keys.add(key)
    stored = str(await stores.redis.hgetall(keys.API_KEYS))  # type: ignore[misc]  # promises no awaitable
    assert key.id in stored
    assert written not in stored
    assert written.removeprefix(f"tr_{key.id}_") not in stored


@pytest.fixture
def away(api_keys: ApiKeys, monkeypatch: pytest.MonkeyPatch) -> ApiKeys:
    """The keys of a store that cannot be reached."""

    async def version() -> int:
        raise StorageError("storage_unavailable")

    monkeypatch.setattr(api_keys, "version", version)
    return api_keys


async def test_a_node_whose_store_is_away_starts_closed(away: ApiKeys) -> None:
    keyring = await _opened(away)
    assert await _refused(keyring, "")


async def test_beyond_loopback_a_node_without_a_key_of_its_own_does_not_start_before_its_store(away: ApiKeys) -> None:
    with pytest.raises(TailraceError, match="cannot be reached"):
        await _opened(away, host="0.0.0.0")
    keyring = await _opened(away, host="0.0.0.0", api_keys=f"acme:{'k' * 32}")
    assert (await keyring.principal("k" * 32)).tenant == "acme"


async def test_the_last_use_is_noted_for_who_lists_keys(api_keys: ApiKeys) -> None:
    await api_keys.note_used({"one": NOW_MS})
    await api_keys.note_used({})
    assert await api_keys.last_used() == {"one": NOW_MS}


@pytest.mark.parametrize("row", ["{", "{}", '{"id":"x","tenant":"t","digest":"d","rights":["fly"],"created_ms":1}'])
async def test_a_key_that_cannot_be_read_opens_nothing_and_takes_no_other_with_it(
    api_keys: ApiKeys, stores: Stores, row: str
) -> None:
    written, key = new_key("acme", ALL_RIGHTS, NOW_MS)
    await api_keys.add(key)
    await stores.redis.hset(keys.API_KEYS, "broken", row)  # type: ignore[misc]
    await stores.redis.hset(keys.SIGNING_KEYS, "broken", row)  # type: ignore[misc]
    keyring = await _opened(api_keys)
    assert (await keyring.principal(written)).id == key.id
    assert await _refused(keyring, "")


@pytest.mark.parametrize("name", [keys.API_KEYS, keys.API_KEYS_VERSION])
async def test_whatever_stands_in_the_store_a_node_goes_on_with_the_keys_that_it_knows(
    api_keys: ApiKeys, stores: Stores, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, key = new_key("acme", ALL_RIGHTS, NOW_MS)
    await api_keys.add(key)
    keyring = await _opened(api_keys)
    await stores.redis.set(keys.API_KEYS_VERSION, 7)
    await stores.redis.set(name, "no such thing")
    monkeypatch.setattr(keyring_module, "LOOK_EVERY_S", 0.001)
    async with running(keyring.run()):
        await asyncio.sleep(0.05)
        assert (await keyring.principal(written)).id == key.id
