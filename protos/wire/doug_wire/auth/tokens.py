"""Bearer tokens: what their text is, and what is kept of them.

``doug_<16 hexadecimal digits>_<43 characters of base64url>``: an id to find it by, and 256 random bits. What is kept is
the id, a salt and SHA-256 over salt and secret: the secret is random in all its bits, so that a slow hash would protect
nothing that the fast one does not, and would cost every first request of a client. Must not know who a token is for.

Source: OWASP, password storage (which is about what people choose); RFC 6750.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

TOKEN_CHARACTERS_MAX = 128
_TOKEN = re.compile(r"doug_([0-9a-f]{16})_([A-Za-z0-9_-]{43})\Z")
_SALT_BYTES = 16


class Minted(NamedTuple):
    """A new token.

    Attributes:
        text: The token itself; nobody keeps it.
        id: The token's id.
        salt: The salt of the hash.
        digest: The hash of the secret, with the salt.
    """

    text: str
    id: str
    salt: bytes
    digest: bytes


def mint() -> Minted:
    """Makes a token."""
    token_id, salt = secrets.token_hex(8), secrets.token_bytes(_SALT_BYTES)
    secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    return Minted(f"doug_{token_id}_{secret}", token_id, salt, digest_of(salt, secret))


def digest_of(salt: bytes, secret: str) -> bytes:
    """The hash that is kept of a secret."""
    return hashlib.sha256(salt + secret.encode()).digest()


def parse(text: str) -> tuple[str, str] | None:
    """The id and the secret of a token; None if the text is no token."""
    found = _TOKEN.match(text) if len(text) <= TOKEN_CHARACTERS_MAX else None
    return None if found is None else (found[1], found[2])


def is_secret(secret: str, salt: bytes, digest: bytes) -> bool:
    """Whether a secret is the one that the hash was made of; takes the same time for every secret."""
    return hmac.compare_digest(digest_of(salt, secret), digest)
