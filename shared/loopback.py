"""What means this machine, whatever a resolver says."""

import ipaddress
import re

_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::\d*)?")


def name_in(host: str) -> str:
    """The name or address in a Host header, without its port (RFC 9110, 7.2); "" where there is none."""
    found = _HOST.fullmatch(host)
    return found[1] if found else ""


def is_loopback(name: str) -> bool:
    """Whether a name or address can only mean this machine (RFC 6761, 6.3)."""
    name = name.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
