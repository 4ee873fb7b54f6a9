"""Whether a certificate is made out to the member that speaks: who it is for is a part of who somebody is.

The authority signs the certificates of facades and of other shards' nodes too; with one of those nobody speaks for a
member. A certificate speaks for a member whose name, or the host of whose address, is one of its names of hosts: what
stands there as a URI or an e-mail address is the name of somebody, which an authority checks in another way or not at
all, and is no name of a process.

Pure functions, but for ``names_of``, which asks gRPC. Source: RFC 6125, 6.4.3 (a wildcard stands for one whole label).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from urllib.parse import unquote

import grpc.aio

_ALTERNATIVE_NAMES = "x509_subject_alternative_name"
_OF_NO_HOST = ("peer_uri", "peer_email")


def names_of(context: grpc.aio.ServicerContext[Any, Any]) -> Collection[str] | None:
    """The names of hosts and addresses in the certificate that the caller showed; None on a plaintext connection."""
    properties = context.auth_context()
    if "ssl" not in {_text(value) for value in properties.get("transport_security_type", ())}:
        return None
    others = {_text(value).lower() for kind in _OF_NO_HOST for value in properties.get(kind, ())}
    return frozenset(_text(value).lower() for value in properties.get(_ALTERNATIVE_NAMES, ())) - others


def speaks_for(names: Collection[str] | None, member: str, address: str, caller: str) -> bool:
    """Whether a certificate with these names is that of a member.

    Args:
        names: The names in the certificate; None for a plaintext connection, which proves nothing and is allowed.
        member: The member's name.
        address: The member's Raft address, ``host:port``; empty while it is not known.
        caller: The address of the caller, as gRPC writes it; used instead of the Raft address while that is not known.
    """
    if names is None:
        return True
    host = _host(address) if address else _host(_caller_address(caller))
    return any(_covers(name, member.lower()) or _covers(name, host.lower()) for name in names)


def _covers(name: str, wanted: str) -> bool:
    if name == wanted:
        return True
    first, dot, rest = wanted.partition(".")
    return bool(first and dot) and name == f"*.{rest}"


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _caller_address(caller: str) -> str:
    """The ``host:port`` in an address as gRPC writes it: ``ipv4:1.2.3.4:5`` or ``ipv6:%5B::1%5D:5``."""
    return unquote(caller).partition(":")[2]


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
