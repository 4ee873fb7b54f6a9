"""Which certificates a client trusts.

Invariant: a file of authorities counts as it is when a client is made; another client made later, of the same file,
trusts what the file holds then.
"""

from __future__ import annotations

import functools
import ssl
from pathlib import Path

import httpx

from dougdb.errors import CertificateError


def verify(url: str, ca_file: str | None) -> ssl.SSLContext:
    """What a client of a URL verifies the other end with.

    The bare context of plain HTTP still verifies, with no authority to trust: should a redirect lead to HTTPS, it is
    refused.

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


# Making a context takes longer than a request.


@functools.cache
def _nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@functools.cache
def _everybody() -> ssl.SSLContext:
    # The context that httpx makes of True, but made once, and not for each connection.
    return httpx.create_ssl_context()


@functools.lru_cache(maxsize=16)
def _those_of(pem: str) -> ssl.SSLContext:
    # An empty file would mean the system's authorities; a line feed is an error.
    return ssl.create_default_context(cadata=pem or "\n")
