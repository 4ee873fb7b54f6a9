"""Headers that keep a stored value from doing anything in a browser but being shown. Pure functions on bytes.

Whoever may write a key chooses its content type, and a browser would run what it calls a page with the rights of the
facade's origin. So a value is a document without an origin, scripts or loads (CSP ``sandbox``), its type is not
guessed, no foreign page embeds it, and what is able to run is offered for download.

Source: CSP level 3, "sandbox"; the Fetch standard, "Cross-Origin-Resource-Policy"; OWASP's cheat sheet on file upload.
"""

from __future__ import annotations

import functools
import re

_CACHED = 1024
_GUARDS = (
    (b"content-security-policy", b"sandbox; default-src 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_DOWNLOAD = (b"content-disposition", b"attachment")
_ACTIVE = re.compile(
    rb"html|xml|svg|script|pdf|flash|java|multipart/|message/|wasm|xsl|vbs|hta|httpd|mhtml", re.IGNORECASE
)


@functools.lru_cache(_CACHED)
def guards(content_type: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The headers for a value of a content type.

    >>> [name.decode() for name, _ in guards(b"text/html")][-1]
    'content-disposition'
    """
    return (*_GUARDS, _DOWNLOAD) if is_active(content_type) else _GUARDS


def is_active(content_type: bytes) -> bool:
    """Whether a browser may run something in a value of this type."""
    return _ACTIVE.search(content_type.split(b";", 1)[0]) is not None
