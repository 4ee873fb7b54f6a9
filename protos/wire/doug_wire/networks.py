"""The part of an address by which clients are told apart where limits count by address.

Whoever has one address of IPv6 usually has all 2^64 of its network, and could be a new client for every request; so all
addresses of such a network are one. An address of IPv4 stands for itself, in whichever way it is written.

Source: RFC 6177, 2; RFC 4291, 2.5.5.2; docs/operations.md, Limits of clients.
"""

from __future__ import annotations

import functools
import ipaddress

PREFIX_BITS = 64


def network_of(address: str) -> str:
    """The client that an address stands for: ``2001:db8:1:2::/64``, ``192.0.2.1``; what is no address stays itself."""
    return _network_of(address) if ":" in address else address


@functools.lru_cache(maxsize=4096)
def _network_of(address: str) -> str:
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    if found.is_loopback:
        return str(found)
    return str(ipaddress.IPv6Network((int(found), PREFIX_BITS), strict=False))


def host_of(peer: str) -> str:
    """The address in what gRPC says of a caller: ``ipv4:192.0.2.1:5``, ``ipv6:%5B2001:db8::1%5D:5``, ``[::1]:5``."""
    text = peer.replace("%5B", "[").replace("%5D", "]").removeprefix("ipv4:").removeprefix("ipv6:")
    host, separator, port = text.rpartition(":")
    return host.strip("[]") if separator and port.isdecimal() else text
