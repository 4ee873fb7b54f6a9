"""If-Match and If-None-Match: entity tags, which are revisions, as conditions of reads and writes.

A write's condition travels with it and is judged when it is applied; a read's is judged here, by what was read. Must
not know where headers come from. Invariant: a condition that cannot be kept is refused, never ignored.

Source: RFC 9110, 8.8.3, 13.1 and 13.2.
"""

from __future__ import annotations

import re

from doug_wire import command
from doug_wire.command import ABSENT, EXISTS, Condition
from facade.errors import BadRequestError

REVISION_MAX = (1 << 64) - 1

_ITEM = re.compile(rb'[ \t]*(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*)")?[ \t]*(?:,|\Z)')
_REVISION = re.compile(rb"(?:0|[1-9][0-9]{0,19})\Z")


class Tags:
    """The entity tags of a header: any existing value (``*``), or some revisions."""

    __slots__ = ("any", "revisions")

    def __init__(self, revisions: frozenset[int] | None) -> None:
        self.any = revisions is None
        self.revisions = revisions or frozenset[int]()

    def match(self, revision: int) -> bool:
        """Whether the tags match a value with this revision; 0 stands for a missing key."""
        return revision > 0 and (self.any or revision in self.revisions)


def _bad(name: str, what: str) -> BadRequestError:
    return BadRequestError("bad_condition", f'{name}: {what}; it is * or a list of entity tags like "7".')


def parse_tags(name: str, text: bytes, *, weak: bool) -> Tags:
    """Reads a list of entity tags.

    A tag that is no revision matches nothing, as RFC 9110 has it: another server may have made it.

    Args:
        name: The header's name.
        text: The header's value.
        weak: Whether weak tags count as the strong ones: for If-None-Match of reads they do.

    Raises:
        BadRequestError: The header is malformed, or has weak tags where they can never match.
    """
    if text.strip(b" \t") == b"*":
        return Tags(None)
    found: set[int] = set()
    position, tags = 0, 0
    while position < len(text):
        match = _ITEM.match(text, position)
        if match is None or match.end() == position:
            raise _bad(name, "malformed")
        position = match.end()
        if match[2] is None:
            continue  # Empty elements of a list are ignored (RFC 9110, 5.6.1.2).
        tags += 1
        if match[1] and not weak:
            raise _bad(name, "a weak tag never matches here")
        if _REVISION.match(match[2]):
            found.add(int(match[2]))
    if not tags:
        raise _bad(name, "no tag is named")
    return Tags(frozenset(found))


def write_condition(if_match: bytes | None, if_none_match: bytes | None) -> Condition | None:
    """The condition of a write.

    Raises:
        BadRequestError: The header is malformed, or the condition is not one that a write can have.
    """
    if if_match is not None and if_none_match is not None:
        raise BadRequestError("bad_condition", "A write has If-Match or If-None-Match, not both.")
    if if_none_match is not None:
        if not parse_tags("If-None-Match", if_none_match, weak=False).any:
            raise BadRequestError("bad_condition", "Of a write, If-None-Match can only be *: create, never overwrite.")
        return ABSENT
    if if_match is None:
        return None
    tags = parse_tags("If-Match", if_match, weak=False)
    if tags.any:
        return EXISTS
    if len(tags.revisions) > 1:
        raise BadRequestError("bad_condition", "If-Match of a write names one revision, or *.")
    # A tag that is no revision of ours matches nothing: no value has revision 0.
    return command.revision(min(max(tags.revisions, default=0), REVISION_MAX))
