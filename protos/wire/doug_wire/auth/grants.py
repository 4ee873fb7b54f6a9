"""Grants, and the one rule that every request is judged by: ``authorize``.

A grant is a verb, and for the verbs of keys a prefix: ``read:config/``. Everything that no grant allows is refused.
Must not know who asks, nor how. Invariants:

1. Nothing but ``authorize`` decides, whatever the interface: keys, ranges, operations of the whole cluster.
2. A range is allowed only if one prefix covers all of it, so that no end of it leads out.

Source: docs/auth.md, Grants and roles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from doug_wire.command import KEY_BYTES_MAX
from doug_wire.scan import after_prefix

EVERYTHING = "*"
GRANT_CHARACTERS_MAX = 4 * KEY_BYTES_MAX
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SAFE = "/:{}@!$&'()+,;=#^~|<>"


class Verb(StrEnum):
    """The actions that can be granted. DO NOT CHANGE THE VALUES: they are in the replicated state."""

    READ = "read"
    WRITE = "write"
    WATCH = "watch"
    MEMBERS = "admin:members"
    """Change and see members, move leadership."""
    BACKUP = "admin:backup"
    """Read the whole state of a shard."""
    AUTH = "admin:auth"
    """Change and see roles, users and tokens."""
    METRICS = "metrics"
    """See how the cluster is: its nodes, its events, its metrics."""


KEYED = frozenset({Verb.READ, Verb.WRITE, Verb.WATCH})
"""The verbs whose grants have a prefix."""


class GrantError(ValueError):
    """The text is no grant."""


class Grant(NamedTuple):
    """One action that is allowed.

    Attributes:
        verb: The action.
        prefix: The prefix of the keys for which it is allowed; empty for all keys, and for verbs without a prefix.
    """

    verb: Verb
    prefix: bytes = b""

    def __str__(self) -> str:
        if self.verb not in KEYED:
            return self.verb.value
        shown = quote_from_bytes(self.prefix, safe=_SAFE) if not _is_plain(self.prefix) else self.prefix.decode()
        return f"{self.verb.value}:{shown or EVERYTHING}"


def _is_plain(prefix: bytes) -> bool:
    try:
        text = prefix.decode()
    except UnicodeDecodeError:
        return False
    return text.isprintable() and "%" not in text and "*" not in text and text == text.strip()


class KeyRange(NamedTuple):
    """Keys from ``start`` up to, but without, ``end``; an empty end is none."""

    start: bytes
    end: bytes = b""


Target = bytes | KeyRange | None
"""The object of an action: a key, a range of keys, or, for verbs without a prefix, None."""


def parse_grant(text: str) -> Grant:
    """Reads ``read:config/``, ``write:*`` or ``admin:backup``. In a prefix, ``%XX`` is one byte.

    Raises:
        GrantError: The text is no grant; the message says why.
    """
    if len(text) > GRANT_CHARACTERS_MAX:
        raise GrantError("the grant is too long")
    for verb in Verb:
        if verb not in KEYED and text == verb.value:
            return Grant(verb)
    name, colon, prefix = text.partition(":")
    verbs = ", ".join(f"{verb.value}:PREFIX" if verb in KEYED else verb.value for verb in Verb)
    if name not in {verb.value for verb in KEYED}:
        raise GrantError(f"{text[:64]!r} is no grant; there are {verbs}")
    if not colon or not prefix:
        raise GrantError(f"{text[:64]!r} names no prefix; {name}:{EVERYTHING} is all keys")
    if prefix == EVERYTHING:
        return Grant(Verb(name))
    if EVERYTHING in prefix:
        raise GrantError(
            f"{text[:64]!r}: a prefix stands for all keys that begin with it; write %2A for the character *"
        )
    if _BAD_ESCAPE.search(prefix):
        raise GrantError(f"{text[:64]!r}: a % is not followed by two hexadecimal digits; %25 is the character %")
    try:
        decoded = unquote_to_bytes(prefix)
    except UnicodeEncodeError:
        raise GrantError(f"{text[:64]!r} is not Unicode") from None
    if len(decoded) > KEY_BYTES_MAX:
        raise GrantError(f"a prefix has at most {KEY_BYTES_MAX} bytes, not {len(decoded)}")
    return Grant(Verb(name), decoded)


class Rights:
    """All grants of one principal, laid out for ``authorize``."""

    __slots__ = ("grants", "prefixes", "verbs")

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        """Takes the grants; the order and repetitions do not matter."""
        self.grants = tuple(sorted(set(grants)))
        self.verbs = frozenset(grant.verb for grant in self.grants if grant.verb not in KEYED)
        self.prefixes = {
            verb: tuple(grant.prefix for grant in self.grants if grant.verb is verb)
            for verb in {grant.verb for grant in self.grants} & KEYED
        }


NOTHING = Rights()
ALL = Rights(Grant(verb) for verb in Verb)


def authorize(rights: Rights, verb: Verb, target: Target = None) -> bool:
    """Whether these rights allow an action. This is the one rule: nothing is done that it does not allow.

    Args:
        rights: The rights of the sender.
        verb: The action.
        target: The object of the action; a verb of keys without a key or a range is refused, and so is any other verb
            with one.
    """
    prefixes = rights.prefixes.get(verb)
    if prefixes is None:
        return target is None and verb in rights.verbs
    if isinstance(target, bytes):
        return target.startswith(prefixes)
    return isinstance(target, KeyRange) and any(_covers(prefix, target) for prefix in prefixes)


def _covers(prefix: bytes, keys: KeyRange) -> bool:
    if keys.start < prefix:
        return False
    behind = after_prefix(prefix)
    # A range without an end leaves every prefix, except those behind which no key can be.
    return behind is None or (keys.end != b"" and keys.end <= behind)
