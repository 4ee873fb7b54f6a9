"""The owner of the certificate that a client has shown: the name by which roles are given, ``cert:NAME``.

The name is the first of: an alternative name that is a URI (as SPIFFE has it), the subject's common name. The
authority's signature was checked by TLS, when the connection began. Must not know what a name may do. Invariants:

1. A certificate of which any part is not understood has no name.
2. A name comes with its certificate's end, which a connection may outlive.

Source: RFC 5280, 4.1.2.6 and 4.2.1.6; SPIFFE X.509-SVID, 2.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple

from doug_wire.auth.document import CERTIFICATE, DocumentError, check_principal


class Certificate(NamedTuple):
    """The parts of a client's certificate that count.

    Attributes:
        name: The owner's name; empty if there is no certificate, or none with a usable name.
        expires_s: When the certificate ends, in seconds since the epoch.
    """

    name: str = ""
    expires_s: float = 0.0


NONE = Certificate()


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
    if len(uris) > 1 or (not uris and len(names) != 1):
        return ""
    found: str = uris[0] if uris else names[0]
    try:
        check_principal(f"{CERTIFICATE}:{found}")
    except DocumentError:
        return ""
    return found
