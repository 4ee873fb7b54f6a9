"""The token of a request that has an idempotency key: the same for both services and for every way in.

Invariant: the same request of the same client with the same idempotency key gives the same token, wherever and whenever
it comes in; another request with this key gives another fingerprint.

Source: docs/api.md, Exactly-once writes; ``doug_wire.command.Token``.
"""

from __future__ import annotations

import hashlib
import re

import xxhash

from doug_wire import command
from doug_wire.command import Command, Token, token_id

KEY_CHARACTERS_MAX = 255
OPERATION_KEY_CHARACTERS_MAX = KEY_CHARACTERS_MAX + 20
"""The longest key of one write of a batch: the batch's key, ``/``, and the write's place, a number of 64 bits."""
_KEY = re.compile(r"[\x20-\x7e]+\Z")


IDENTITY_BYTES_MAX = 200
"""The longest identity that fits into a token beside the longest idempotency key (``TOKEN_BYTES_MAX``)."""


def identity_of(principal: str) -> str:
    """The identity to which a principal's idempotency keys belong: its name, or the hash of one that has no room."""
    if len(principal) <= IDENTITY_BYTES_MAX and principal.isascii():
        return principal
    return "sha256:" + hashlib.sha256(principal.encode()).hexdigest()


def is_key(key: str, characters_max: int = KEY_CHARACTERS_MAX) -> bool:
    """Whether an idempotency key has a form that is accepted: printable ASCII characters, 255 at most."""
    return len(key) <= characters_max and _KEY.match(key) is not None


def with_token(wanted: Command, identity: str, key: str) -> Command:
    """The command with a token whose fingerprint covers everything that the command does.

    Args:
        wanted: The command; its epoch and token do not count.
        identity: The identity of the client; empty while clients share their keys.
        key: The idempotency key.
    """
    bare = command.encode(*wanted._replace(epoch=0, token=None))
    return wanted._replace(token=Token(token_id(identity, key), xxhash.xxh3_64_intdigest(bare)))
