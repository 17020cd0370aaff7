"""Which hosts files are sent to and read from: links come from the service, and could name any host."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Characters of a URL. Others, such as backslashes and line breaks, are read differently by different libraries.
_URL = re.compile(r"[!-~]+")
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
#: A host whose last label is a number is an address; some libraries read `2130706433` and `0x7f.1` as 127.0.0.1.
_LOOKS_LIKE_NUMBER = re.compile(r"(?:.*\.)?(?:\d+|0x[0-9a-f]*)")
#: Networks whose addresses contain one of IPv4.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Address:
    """Scheme and host of a URL, in the form in which they can be compared.

    :param ip: the host, if it is an IP address
    """

    scheme: str
    host: str
    ip: IpAddress | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine."""
        return self.host == "localhost" or (self.ip is not None and self.ip.is_loopback)

    @property
    def is_internal(self) -> bool:
        """Whether the host is this machine, or an address that is not one of the public internet."""
        return self.is_loopback or (self.ip is not None and (not self.ip.is_global or self.ip.is_multicast))


def read_address(url: str) -> Address:
    """Return scheme and host of a URL.

    :raises ValueError: it is not an http(s) URL that all libraries read in the same way, or it contains a user name
    """
    if not _URL.fullmatch(url) or "\\" in url:
        raise ValueError("characters that no URL contains")
    parts = urlsplit(url)
    _ = parts.port  # raises an error if it is no number
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("no http or https URL with a host")
    if "@" in parts.netloc:
        raise ValueError("a user name or password")
    host, ip = normalize_host(parts.hostname)
    return Address(parts.scheme, host, ip)


def normalize_host(host: str) -> tuple[str, IpAddress | None]:
    """Return a host in lower case, in ASCII and without a final dot, and as an IP address if it is one.

    :raises ValueError: it is neither a name nor an address in its usual form
    """
    if ":" in host:
        ip = _unwrap(ipaddress.IPv6Address(host))
        return str(ip), ip
    name = host.encode("idna").decode().lower().removesuffix(".")
    if _LOOKS_LIKE_NUMBER.fullmatch(name):
        address = ipaddress.IPv4Address(name)  # four decimal numbers, and no other form
        return str(address), address
    if not _HOST_NAME.fullmatch(name):
        raise ValueError("not a host name")
    return name, None


def is_allowed(address: Address, patterns: Collection[str]) -> bool:
    """Return whether a host is one of the patterns: a host, or `*.` before a domain for all hosts in it."""
    return any(
        (address.ip is None and address.host.endswith(pattern[1:])) if pattern.startswith("*.") else
        address.host == pattern or (address.is_loopback and pattern == "localhost")
        for pattern in patterns
    )  # fmt: skip


def read_pattern(text: str) -> str:
    """Return a pattern of hosts in the form in which it can be compared.

    :raises ValueError: it is neither a host, nor `*.` before a domain of at least two labels
    """
    if not text.startswith("*."):
        return normalize_host(text.removeprefix("[").removesuffix("]"))[0]
    domain, ip = normalize_host(text[2:])
    if ip is not None or "." not in domain:
        raise ValueError("not a domain of at least two labels")
    return f"*.{domain}"


def _unwrap(ip: ipaddress.IPv6Address) -> IpAddress:
    """Return the address of IPv4 that an address of IPv6 stands for."""
    teredo = ip.teredo
    wrapped = ip.ipv4_mapped or ip.sixtofour or (teredo and teredo[1])
    if wrapped is None and (ip in _NAT64 or 1 < int(ip) < 1 << 32):
        wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return wrapped or ip
