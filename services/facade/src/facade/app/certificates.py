"""The certificate that the client of a connection has shown, and its owner's name (``doug_wire.auth.certificates``).

Must not know what a name may do. Invariant: a name comes with its certificate's end, which a connection may outlive.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from doug_wire.auth.certificates import NONE, Certificate, owner_of

__all__ = ["NONE", "Certificate", "name_of", "read", "shown_by"]


def shown_by(transport: asyncio.BaseTransport) -> Certificate:
    """The certificate that the client of a connection has shown."""
    connection = transport.get_extra_info("ssl_object")
    return NONE if connection is None else read(connection.getpeercert() or {})


def read(certificate: Mapping[str, Any]) -> Certificate:
    """Reads a certificate as ``ssl`` gives it."""
    name = name_of(certificate)
    try:
        expires_s = float(ssl.cert_time_to_seconds(certificate["notAfter"]))
    except (KeyError, ValueError):
        return NONE
    return Certificate(name, expires_s) if name and expires_s > 0 else NONE


def name_of(certificate: Mapping[str, Any]) -> str:
    """The owner's name in a certificate as ``ssl`` gives it; empty if it has none that can be used."""
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    names = [value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    return owner_of(uris, names)
