"""Idempotency keys: what makes a write happen once, however often it is sent.

They are UUIDs of version 7 (RFC 9562, 5.7), whose first 48 bits are the time: a shard can tell that one is older than
what it remembers, and refuses it rather than applying it twice.
"""

from __future__ import annotations

import enum
import secrets
import time
import uuid
from typing import Final, Literal


class _Auto(enum.Enum):
    """The type of ``AUTO``."""

    AUTO = "auto"


AUTO: Final = _Auto.AUTO
"""The client makes a key of its own for the write, and may repeat it therefore."""

IdempotencyKey = str | None | Literal[_Auto.AUTO]
"""A key of the caller's; None for none: then the write is never repeated once it may have been applied."""


EXPIRED = "idempotency_expired"
"""The code with which a shard refuses a key whose time is older than what it remembers."""


def new_key(*, timed: bool = True) -> str:
    """A new idempotency key; one that is not ``timed`` says nothing of this machine's clock, which may be wrong."""
    if not timed:
        return str(uuid.uuid4())
    milliseconds = time.time_ns() // 1_000_000 & (1 << 48) - 1
    rest = secrets.randbits(74)
    number = milliseconds << 80 | 0x7 << 76 | (rest >> 62) << 64 | 0b10 << 62 | (rest & (1 << 62) - 1)
    return str(uuid.UUID(int=number))
