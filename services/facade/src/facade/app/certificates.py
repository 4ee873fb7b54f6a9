"""Whose certificate a client has shown: the name in it by which roles are given, ``cert:NAME``.

The name is the first of: an alternative name that is a URI (as SPIFFE has it), the subject's common name. The
authority's signature was checked by TLS. Must not know what a name may do. Invariant: a certificate of which any part
is not understood has no name.

Source: RFC 5280, 4.1.2.6 and 4.2.1.6; SPIFFE X.509-SVID, 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from doug_wire.auth.document import CERTIFICATE, DocumentError, check_principal


def subject_of(transport: asyncio.BaseTransport) -> str:
    """The name of a connection's certificate; empty if there is none."""
    connection = transport.get_extra_info("ssl_object")
    if connection is None:
        return ""
    return name_of(connection.getpeercert() or {})


def name_of(certificate: Mapping[str, Any]) -> str:
    """The name of a certificate, as ``ssl`` tells it; empty if it has none that can be used."""
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
