"""Reads requests for ranges of keys, ``GET`` and ``DELETE /v1/kv``. Pure functions on bytes.

Invariant: what is not understood is refused, never ignored: an unknown parameter, one that is given twice, a range that
is described in two ways, a cursor of something else.

Source: docs/api.md, Ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from doug_wire.auth.grants import Verb
from doug_wire.command import KEY_BYTES_MAX
from doug_wire.scan import DELIMITER_BYTES_MAX, after_prefix
from doug_wire.slots import SLOTS
from facade.client.scan import ScanQuery
from facade.errors import BadRequestError
from facade.routes.key import quality_of
from facade.routes.options import decode64, freshness_of, parse_query
from facade.routes.ranges import cursor as cursors
from facade.routes.raw import NDJSON_TYPE, check_acceptable

LIMIT_DEFAULT = 1_000
LIMIT_MAX = 10_000
DELETE_LIMIT_DEFAULT = 10_000
DELETE_LIMIT_MAX = 100_000
_COUNT_MAX = (1 << 63) - 1

_BOUNDS = ("prefix", "start", "end")
_RANGE = (*_BOUNDS, *(name + "64" for name in _BOUNDS), "limit", "cursor")
GET_PARAMETERS = frozenset(
    (*_RANGE, "keys_only", "reverse", "count_only", "delimiter", "slot", "consistency", "max_staleness")
)
DELETE_PARAMETERS = frozenset((*_RANGE, "dry_run", "all"))


class RangeRequest(NamedTuple):
    """A request for a range.

    Attributes:
        query: The range, gone on with at the cursor; its ``limit`` is 0.
        limit: How many entries and common prefixes are wanted at most; 0 if the request named no limit.
        scope: The scope of its cursors.
        dry_run: Whether a deletion only counts.
    """

    query: ScanQuery
    limit: int
    scope: int
    dry_run: bool = False

    def cursor(self, bound: bytes | None) -> str | None:
        """The cursor for the rest behind a bound; None if nothing is left."""
        return None if bound is None else cursors.encode(bound, self.scope)


def read_of(query: bytes, consistency: bytes | None, cluster_id: bytes, limit_max: int) -> RangeRequest:
    """Reads the range of a GET.

    Args:
        query: The query string.
        consistency: The header Doug-Consistency.
        cluster_id: The cluster whose cursors are taken.
        limit_max: The greatest limit.

    Raises:
        BadRequestError: The query makes no sense.
    """
    given = parameters_of(query, GET_PARAMETERS)
    start, end, prefix = bounds_of(given)
    delimiter = given.get("delimiter", b"")
    if "delimiter" in given and not 0 < len(delimiter) <= DELIMITER_BYTES_MAX:
        raise BadRequestError("bad_parameter", f"A delimiter has 1 to {DELIMITER_BYTES_MAX} bytes.")
    slot = _slot(given)
    asked = ScanQuery(
        start=start,
        end=end,
        slot=slot,
        reverse=flag_of(given, "reverse"),
        keys_only=flag_of(given, "keys_only"),
        count_only=flag_of(given, "count_only"),
        delimiter=delimiter,
        prefix_bytes=len(prefix) if delimiter else 0,
        asked=freshness_of(given.get("consistency"), given.get("max_staleness"), consistency),
    )
    scope = cursors.scope_of(
        b"read",
        cluster_id,
        start,
        b"" if end is None else end,
        b"%d" % asked.reverse,
        delimiter,
        prefix,
        *(() if slot is None else (b"%d" % slot,)),
    )
    return RangeRequest(_go_on(asked, given, scope), _limit(given, limit_max), scope)


def deletion_of(query: bytes, cluster_id: bytes) -> RangeRequest:
    """Reads the range of a DELETE.

    Raises:
        BadRequestError: The query makes no sense, or would delete all keys and does not say so.
    """
    given = parameters_of(query, DELETE_PARAMETERS)
    start, end, _ = bounds_of(given)
    everything = flag_of(given, "all")
    if everything and (start or end is not None):
        raise BadRequestError("bad_range", "all=true names everything; a range beside it contradicts it.")
    if not everything and not start and end is None:
        raise BadRequestError(
            "bad_range", "This names every key. Say so with all=true, or give a prefix, start or end."
        )
    scope = cursors.scope_of(b"delete", cluster_id, start, b"" if end is None else end)
    dry_run = flag_of(given, "dry_run")
    # Counting reveals how many keys there are, and its cursors reveal keys, so it is a read.
    asked = ScanQuery(start=start, end=end, keys_only=True, verb=Verb.READ if dry_run else Verb.WRITE)
    return RangeRequest(_go_on(asked, given, scope), _limit(given, DELETE_LIMIT_MAX), scope, dry_run=dry_run)


def wants_lines(accept: bytes | None, other: bytes) -> bool:
    """Whether lines of JSON are asked for by name, and the other form is not preferred: by its quality, then its place.

    Raises:
        BadRequestError: 406; neither form is allowed.
    """
    check_acceptable(accept, other, NDJSON_TYPE)
    qualities: dict[bytes, float] = {}
    for part in (accept or b"").lower().split(b","):
        name, *parameters = (piece.strip() for piece in part.split(b";"))
        if name in (other, NDJSON_TYPE):
            qualities.setdefault(name, quality_of(parameters))
    # Of two that are equal, ``max`` takes the first.
    return qualities.get(NDJSON_TYPE, 0.0) > 0 and max(qualities, key=qualities.__getitem__) == NDJSON_TYPE


def parameters_of(query: bytes, known: frozenset[str]) -> dict[str, bytes]:
    """The parameters of a query, each of which must be known and be given once.

    Raises:
        BadRequestError: A parameter is not known, or given twice.
    """
    found = parse_query(query, frozenset(name.encode() for name in known))
    return {name.decode(): value for name, value in found.items()}


def bounds_of(given: Mapping[str, bytes]) -> tuple[bytes, bytes | None, bytes]:
    """Start, end and prefix of the range.

    Raises:
        BadRequestError: The range is described in two ways, or can hold no key.
    """
    found = {name: _key(given, name) for name in _BOUNDS}
    prefix, start, end = found["prefix"], found["start"], found["end"]
    if prefix is not None and (start is not None or end is not None):
        raise BadRequestError("bad_range", "A range is named by a prefix, or by start and end.")
    if prefix is not None:
        return prefix, after_prefix(prefix), prefix
    if end == b"":
        raise BadRequestError("bad_range", "No key lies before an empty end; leave it out for no end.")
    return start or b"", end, b""


def _key(given: Mapping[str, bytes], name: str) -> bytes | None:
    plain, encoded = given.get(name), given.get(name + "64")
    if plain is not None and encoded is not None:
        raise BadRequestError("bad_range", f"{name} and {name}64 are two names of one bound.")
    if encoded is not None:
        plain = decode64(name + "64", encoded, "bad_parameter")
    elif plain is not None and not plain.isascii():
        try:
            plain.decode()
        except UnicodeDecodeError:
            raise BadRequestError(
                "key_not_utf8", f"{name}, percent-decoded, is not valid UTF-8; {name}64 takes any bytes."
            ) from None
    if plain is not None and len(plain) > KEY_BYTES_MAX:
        raise BadRequestError("key_too_long", f"{name} has {len(plain)} bytes; the limit is {KEY_BYTES_MAX}.")
    return plain


def flag_of(given: Mapping[str, bytes], name: str, *, default: bool = False) -> bool:
    """A parameter that is true or false.

    Raises:
        BadRequestError: The value is none of these.
    """
    value = given.get(name, b"true" if default else b"false")
    if value not in (b"true", b"false"):
        raise BadRequestError("bad_parameter", f"{name} is true or false.")
    return value == b"true"


def _slot(given: Mapping[str, bytes]) -> int | None:
    text = given.get("slot")
    if text is None:
        return None
    if not text.isdigit() or len(text) > 4 or int(text) >= SLOTS:
        raise BadRequestError("bad_parameter", f"slot is a number from 0 to {SLOTS - 1}.")
    if "delimiter" in given:
        raise BadRequestError("bad_range", "The keys of a slot have no common prefixes: slot and delimiter exclude.")
    return int(text)


def _limit(given: Mapping[str, bytes], limit_max: int) -> int:
    text = given.get("limit")
    if text is None:
        return 0
    limit_max = limit_max or _COUNT_MAX
    if not text.isdigit() or len(text) > 19 or not 0 < int(text) <= limit_max:
        raise BadRequestError("bad_parameter", f"limit is a number from 1 to {limit_max}.")
    return int(text)


def _go_on(asked: ScanQuery, given: Mapping[str, bytes], scope: int) -> ScanQuery:
    text = given.get("cursor")
    if text is None:
        return asked
    try:
        return asked.bounded(cursors.decode(text.decode("ascii", "replace"), scope))
    except cursors.CursorError as error:
        raise BadRequestError("bad_cursor", f"The cursor cannot be used: {error}.") from None
