"""Which certificates a client trusts."""

from __future__ import annotations

import functools
import ssl

import httpx

from dougdb.errors import CertificateError


@functools.cache
def verify(url: str, ca_file: str | None) -> ssl.SSLContext:
    """Loading the certificates takes longer than a request; plain HTTP does not need them.

    The bare context still verifies, with no authority to trust: should a redirect lead to HTTPS, it is refused.

    Raises:
        CertificateError: The file cannot be read, or holds no certificate.
    """
    if not url.startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is None:
        # What httpx would make of True, but once, and not for each connection.
        return httpx.create_ssl_context()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one, too.
        raise CertificateError(f"{ca_file}: {error.strerror or error}") from None
