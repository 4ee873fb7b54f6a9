"""Fuzz targets of the facade: what a request names, byte by byte, and JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable
from urllib.parse import quote_from_bytes

from doug_wire.command import KEY_BYTES_MAX
from doug_wire.partition_map import PartitionMap, PartitionMapError, SlotRange
from facade.client.modes import READ_MODES
from facade.errors import BadRequestError
from facade.routes.body import parse_json
from facade.routes.key import KEY_PREFIX, key_of, wants_json
from facade.routes.options import Headers, parse_read
from facade.routes.ranges import cursor
from facade.routes.ranges.cursor import CursorError
from facade.routes.ranges.request import RangeRequest, deletion_of, read_of
from raft_testing.fuzz.target import Target

CURSOR_SCOPE = cursor.scope_of(b"read", b"cluster")


def check_key(raw: bytes) -> None:
    """A key is text within the limit, or refused; escaped anew it is the same key."""
    prefix = KEY_PREFIX + b"/"
    try:
        key = key_of(prefix + raw)
    except BadRequestError:
        return
    assert 0 < len(key) <= KEY_BYTES_MAX
    key.decode()
    assert key_of(prefix + quote_from_bytes(key, safe="").encode()) == key
    assert b"%" in raw or key == raw, "nothing is normalised"


def seeds_key() -> Iterable[bytes]:
    """Plain, escaped, with a slash, two bytes of one letter."""
    yield b"a/b//../c"
    yield b"%61%2F%c3%bc"
    yield "ü".encode() + b"%"


def check_headers(content: bytes) -> None:
    """Query, consistency and accept headers give one of the known answers, or are refused."""
    query, _, rest = content.partition(b"\n")
    consistency, _, accept = rest.partition(b"\n")
    for headers in ((), ((b"doug-consistency", consistency), (b"accept", accept))):
        try:
            assert parse_read(query, Headers(headers)).asked.mode in READ_MODES.values()
        except BadRequestError:
            continue
    assert wants_json(accept) in (False, True)


def seeds_headers() -> Iterable[bytes]:
    """Both ways to name a consistency, and quality values."""
    yield b"consistency=eventual\neventual\napplication/json;q=0.5, */*;q=0.1"
    yield b"consistency=%6cinearizable&\n\ntext/plain"


def check_json(body: bytes) -> None:
    """JSON is read strictly, or refused: no numbers that are none, no text that cannot be written out again."""
    try:
        value = parse_json(body)
    except BadRequestError:
        return
    for part in _parts(value):
        if isinstance(part, float):
            assert math.isfinite(part)
        if isinstance(part, str):
            part.encode()


def _parts(value: object) -> Iterable[object]:
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting += [*part, *part.values()]
        elif isinstance(part, list):
            waiting += part
        else:
            yield part


def seeds_json() -> Iterable[bytes]:
    """Each kind of value."""
    yield b'{"a": [1, -2.5e3, "\\u00fc", null, true], "b": {}}'
    yield b"[[[]]]"


def check_map(content: bytes) -> None:
    """A partition map names every slot once, or is not built."""
    parts = [content[at : at + 5] for at in range(0, len(content) - 4, 5)]
    ranges = [
        SlotRange(int.from_bytes(part[:2], "little"), int.from_bytes(part[2:4], "little"), part[4], 1) for part in parts
    ]
    try:
        built = PartitionMap(1, ranges)
    except PartitionMapError:
        return
    assert sum(entry.last - entry.first + 1 for entry in built.ranges) == 1024
    assert built.owner(b"key")[0] in {entry.shard for entry in ranges}


def seeds_map() -> Iterable[bytes]:
    """One shard, and two."""
    yield bytes((0, 0, 0xFF, 3, 0))
    yield bytes((0, 2, 0xFF, 3, 1)) + bytes((0, 0, 0xFF, 1, 0))


def check_cursor(content: bytes) -> None:
    """What is taken for a cursor is written as the facade writes it."""
    try:
        text = content.decode()
        bound = cursor.decode(text, CURSOR_SCOPE)
    except (UnicodeDecodeError, CursorError):
        return
    assert len(bound) <= KEY_BYTES_MAX + 1
    assert cursor.encode(bound, CURSOR_SCOPE) == text


def seeds_cursor() -> Iterable[bytes]:
    """Bounds of some kinds, and a cursor of something else."""
    for bound in (b"", b"key\0", b"\xff" * (KEY_BYTES_MAX + 1)):
        yield cursor.encode(bound, CURSOR_SCOPE).encode()
    yield cursor.encode(b"key", CURSOR_SCOPE + 1).encode()


def check_range(query: bytes) -> None:
    """A query names a range within the limits, or is refused; so does a deletion, which then has a bound or says so."""
    for understand in (_read, _deletion):
        try:
            asked = understand(query)
        except BadRequestError:
            continue
        bounds = [asked.query.start, asked.query.end or b"", asked.query.delimiter]
        assert all(len(bound) <= KEY_BYTES_MAX + 1 for bound in bounds) and asked.limit >= 0
        if understand is _deletion and not asked.query.start and asked.query.end is None:
            assert b"all=" in query or b"%" in query


def _read(query: bytes) -> RangeRequest:
    return read_of(query, None, b"cluster", 0)


def _deletion(query: bytes) -> RangeRequest:
    return deletion_of(query, b"cluster")


def seeds_range() -> Iterable[bytes]:
    """Every parameter."""
    yield b"prefix=a%2F&limit=10&keys_only=true&reverse=false&count_only=true&delimiter=/&consistency=eventual"
    yield b"start=a&end64=_w&dry_run=true"
    yield b"all=true&limit=7"
    yield b"start64=YQ&end=b&cursor=AZD0frrARZ-Ae6yVK2swMDAwAA"


TARGETS = (
    Target("cursor", "cursors of ranges", check_cursor, seeds_cursor),
    Target("range", "queries for ranges", check_range, seeds_range),
    Target("key", "keys in paths, percent-decoded", check_key, seeds_key),
    Target("headers", "query, consistency and accept", check_headers, seeds_headers),
    Target("json", "JSON bodies", check_json, seeds_json),
    Target("map", "partition maps in the facade", check_map, seeds_map),
)
