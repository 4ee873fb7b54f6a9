"""The name of a client's certificate: ``cert:NAME`` is the principal to whom roles are given.

The name is an alternative name that is a URI (as SPIFFE has it), or else the subject's common name. Facades and nodes
ask here, so that one certificate has one name everywhere. The authority's signature was checked by TLS. Must not know
what a name may do.

Invariant: a certificate of which any part is not understood, or that has two names, has none.

Source: RFC 5280, 4.1.2.6 and 4.2.1.6; SPIFFE X.509-SVID, 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from doug_wire import tls
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


def owner_of(uris: Sequence[str], common_names: Sequence[str]) -> str:
    """The owner's name, of the URIs and the common names in a certificate; empty if it has none that can be used."""
    if len(uris) > 1 or (not uris and len(common_names) != 1):
        return ""
    found = uris[0] if uris else common_names[0]
    try:
        check_principal(f"{CERTIFICATE}:{found}")
    except DocumentError:
        return ""
    return found


def shown_to_grpc(properties: Mapping[str, Iterable[bytes]]) -> Certificate:
    """The certificate that a caller has shown to a server of gRPC, by the properties of the connection."""
    pems = list(properties.get("x509_pem_cert", ()))
    if len(pems) != 1:
        return NONE
    try:
        # gRPC tells the first common name alone.
        common_names = tls.common_names(pems[0])
        uris = [uri.decode() for uri in properties.get("peer_uri", ())]
        expires_s = tls.not_after(pems[0]).timestamp()
    except (tls.TlsError, UnicodeDecodeError):
        return NONE
    name = owner_of(uris, common_names)
    return Certificate(name, expires_s) if name else NONE
