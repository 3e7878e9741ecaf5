"""The stores' addresses: what opens a store is taken from where it stands, and shown nowhere."""

import ssl
from pathlib import Path

import pytest

from shared.addresses import StoreAddress
from shared.settings import Settings
from tests.support.certificates import Authority

SECRET = "s3cret-and-long"


def parse(url: str, **files: str) -> StoreAddress:
    return StoreAddress.parse(url, name="TAILRACE_REDIS_URL", **files)


@pytest.mark.parametrize(("url", "shown", "credentials"), [
    ("redis://h:6379/0", "redis://h:6379/0", ()),
    (f"redis://:{SECRET}@h:6379/0", "redis://h:6379/0", (SECRET,)),
    (f"rediss://api:{SECRET}@h:6379/2", "rediss://h:6379/2", ("api", SECRET)),
    ("redis://a%40b:p%2F%3A%40@h/1?health_check_interval=5", "redis://h/1?health_check_interval=5", ("a@b", "p/:@")),
    ("unix:///run/v.sock?db=3", "unix:///run/v.sock?db=3", ()),
    (f"unix://api:{SECRET}@/run/v.sock", "unix:///run/v.sock", ("api", SECRET)),
    (f"redis://:{SECRET}@[::1]:6379/0", "redis://[::1]:6379/0", (SECRET,)),
])  # fmt: skip
def test_a_password_is_used_and_not_shown(url: str, shown: str, credentials: tuple[str, ...]) -> None:
    address = parse(url)
    assert address.url == shown
    assert address.credentials() == credentials
    assert not any(part in f"{address!r}{address}" for part in credentials[-1:])


def test_a_password_stands_in_a_file_and_may_change(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    address = parse("redis://api@h/0", password_file=str(file))
    assert address.credentials() == ("api", SECRET)
    file.write_text("another one")
    assert address.credentials() == ("api", "another one")


@pytest.mark.parametrize("url", [
    "", "h:6379", "http://h", f"redis://:{SECRET}/x@h:6379", f"redis://:{SECRET}@h:no", f"redis://:{SECRET}#x@h",
    f"unix:///run/v.sock?password={SECRET}", f"rediss://:{SECRET}@h/0?ssl_cert_reqs=none",
    f"rediss://:{SECRET}@h/0?ssl_check_hostname=false", f"redis://:{SECRET}@h/0?ssl_ca_certs=/x",
    f"rediss://:{SECRET}@h/0?ssl_ca_certs=/not/there",
])  # fmt: skip
def test_an_address_that_is_none_is_refused_by_its_setting_and_quoted_nowhere(url: str) -> None:
    with pytest.raises(ValueError, match="TAILRACE_REDIS_URL") as refused:
        Settings(redis_url=url).log_store  # noqa: B018 - it is the question
    chain = [refused.value, refused.value.__cause__]
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    assert not any(SECRET in str(error) for error in chain)


def test_two_passwords_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    with pytest.raises(ValueError, match="FileNotFoundError"):
        parse("redis://h/0", password_file=str(file))
    file.write_text(SECRET)
    with pytest.raises(ValueError, match="take one away"):
        parse(f"redis://:{SECRET}@h/0", password_file=str(file))


def test_tls_checks_certificate_and_host_name(tmp_path: Path) -> None:
    for files in ({}, {"ca_file": str(Authority(tmp_path).file)}):
        context = parse("rediss://h/0", **files).tls
        assert context is not None
        assert context.check_hostname
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert parse("redis://h/0").tls is None


def test_a_file_of_no_certificates_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with pytest.raises(ValueError, match="no PEM"):
        parse("rediss://h/0", ca_file=str(file))
    with pytest.raises(ValueError, match="rediss://"):
        parse("redis://h/0", ca_file=str(Authority(tmp_path).file))


def test_settings_show_no_secret() -> None:
    settings = Settings(
        redis_url=f"redis://:{SECRET}@h/0",
        control_redis_url=f"redis://api:{SECRET}@h/1",
        api_keys=f"acme:{SECRET}",
        token_keys=f"a:{SECRET * 3}",
    )
    shown = f"{settings!r} {settings} {settings.log_store!r} {settings.control_store!r}"
    assert SECRET not in shown


def test_the_control_store_is_the_log_store_unless_it_has_an_address_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    alone = Settings(redis_url="redis://api@h/0", redis_password_file=str(file))
    assert alone.control_store == alone.log_store
    both = Settings(
        redis_url="redis://api@h/0", control_redis_url="redis://api@c/0", control_redis_password_file=str(file)
    )
    assert both.log_store.credentials() == ("api", "")
    assert (both.control_store.url, both.control_store.credentials()) == ("redis://c/0", ("api", SECRET))
