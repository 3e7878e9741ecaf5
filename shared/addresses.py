"""Where a store is and how one gets in: URL, user, password and certificates, none of which is shown by accident."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

_SCHEMES = ("redis", "rediss", "unix")
_OF_TLS = frozenset({"ssl_certfile", "ssl_keyfile", "ssl_ca_certs"})
"""What a URL's query may say of TLS. Whom to trust is not decided in a URL: neither `ssl_cert_reqs` nor
`ssl_check_hostname` is among it."""


@dataclass(frozen=True)
class StoreAddress:
    """A store: `url` without a password in it, and beside it what else opens it.

    `password_file`: read at every connection, so that a password can be changed without a restart. `ca_file`: who signs
    the store's certificate, PEM; empty: whoever the system trusts.
    """

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    @classmethod
    def parse(
        cls,
        url: str,
        *,
        name: str,
        password_file: str = "",
        file_setting: str = "TAILRACE_REDIS_PASSWORD_FILE",
        ca_file: str = "",
    ) -> "StoreAddress":
        """The address that `url` and the settings beside it name. ValueError, which quotes nothing of the URL, for one
        that is none; `name` is that of its setting, `file_setting` that of the file's."""
        try:
            parts = urlsplit(url)
            parts.port, parts.hostname  # noqa: B018 - read for their checks
        except ValueError:
            raise _wrong(
                name, "is no URL. In user names and passwords `: / ? # @ %` are written as %3A and so on"
            ) from None
        if parts.scheme not in _SCHEMES:
            raise _wrong(name, "does not begin with redis://, rediss:// or unix://")
        said, rest = _query(parts.query, name)
        if (said or ca_file) and parts.scheme != "rediss":
            raise _wrong(name, "does not begin with rediss://, which the files of TLS that are set want")
        userinfo, _, place = parts.netloc.rpartition("@")
        user, _, password = userinfo.partition(":")
        if password and password_file:
            raise _wrong(name, f"has a password, and {file_setting} is set, too: take one away")
        address = cls(
            f"{parts.scheme}://{place}{parts.path}{'?' if rest else ''}{rest}",
            unquote(user),
            unquote(password),
            password_file,
            ca_file or said.get("ssl_ca_certs", ""),
            said.get("ssl_certfile", ""),
            said.get("ssl_keyfile", ""),
        )
        _check(file_setting, address.credentials)
        if ca_file:
            _check("TAILRACE_REDIS_CA_FILE", lambda: ssl.create_default_context(cafile=ca_file))
        _check(f"A file in the query of {name}", lambda: address.tls)
        return address

    def credentials(self) -> tuple[str, ...]:
        """What AUTH is told: nothing, a password, or a user and a password. OSError where the file cannot be read."""
        password = self.password
        if self.password_file:
            password = Path(self.password_file).read_text().strip("\r\n")
        if not (password or self.user):
            return ()
        return (self.user, password) if self.user else (password,)

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        """How TLS is spoken: the certificate and the host name in it are checked. None for the other schemes."""
        if not self.url.startswith("rediss:"):
            return None
        # Made once: to read the system's certificates takes 20 ms of the loop, and a pool has 64 connections.
        context = ssl.create_default_context(cafile=self.ca_file or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file or None)
        return context


def _query(text: str, name: str) -> tuple[dict[str, str], str]:
    """What the query says of TLS, and the rest of it. ValueError for what has no place in a URL."""
    query = parse_qs(text)
    if "password" in query or "username" in query:
        raise _wrong(name, "has a password in its query: write user:password@ before the host or path")
    if foreign := sorted(key for key in query if key.startswith("ssl_") and key not in _OF_TLS):
        raise _wrong(
            name,
            f"has {foreign[0]}: certificates and host names are always checked. For a CA of your own set "
            "TAILRACE_REDIS_CA_FILE",
        )
    said = {key: values[0] for key, values in query.items() if key in _OF_TLS}
    return said, "&".join(part for part in text.split("&") if part.partition("=")[0] not in _OF_TLS)


def _check(whose: str, use: Callable[[], object]) -> None:
    """ValueError, which names whose file it is, where one cannot be used."""
    try:
        use()
    except (OSError, UnicodeDecodeError) as error:  # SSLError is one
        reason = "is no PEM of certificates" if isinstance(error, ssl.SSLError) else type(error).__name__
        raise _wrong(whose, f"cannot be used: {reason}") from None


def _wrong(name: str, what: str) -> ValueError:
    return ValueError(f"{name} {what}.")
