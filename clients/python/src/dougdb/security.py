"""The certificates that a client trusts.

Invariant: a client trusts the authorities that were in the file when the client was made; a client that is made later
reads the same file again.
"""

from __future__ import annotations

import functools
import ssl
from pathlib import Path

import httpx

from dougdb.errors import CertificateError


def verify(url: str, ca_file: str | None) -> ssl.SSLContext:
    """The TLS context by which a client of a URL verifies the server.

    For plain HTTP the context trusts no authority, so that a redirect to HTTPS is refused.

    Raises:
        CertificateError: The file cannot be read, or holds no certificate.
    """
    if not url.startswith("https:"):
        return _nobody()
    if ca_file is None:
        return _everybody()
    try:
        # Comments between the certificates may be in any language.
        return _those_of(Path(ca_file).read_bytes().decode("ascii", "replace").replace("\ufffd", "?"))
    except OSError as error:  # ssl.SSLError is one, too.
        raise CertificateError(f"{ca_file}: {error.strerror or error}") from None


# The contexts are cached, because making one takes longer than a request.


@functools.cache
def _nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@functools.cache
def _everybody() -> ssl.SSLContext:
    # The same context that httpx would make for verify=True, but made once and not for each client.
    return httpx.create_ssl_context()


@functools.lru_cache(maxsize=16)
def _those_of(pem: str) -> ssl.SSLContext:
    # An empty file would mean the system's authorities; a line feed is an error.
    return ssl.create_default_context(cadata=pem or "\n")
