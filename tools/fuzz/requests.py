"""Fuzz targets of the facade: keys, headers, ranges, ids and JSON of requests."""

from __future__ import annotations

import base64
import contextlib
import math
from collections.abc import Iterable
from hashlib import sha256
from urllib.parse import quote_from_bytes

from crc32c import crc32c

from doug_wire import command, payload
from doug_wire.command import KEY_BYTES_MAX, Command, Opcode
from doug_wire.partition_map import PartitionMap, PartitionMapError, SlotRange
from doug_wire.validity import validate
from facade.client.modes import READ_MODES
from facade.client.sessions import VERSION as SESSION_VERSION
from facade.client.sessions import Session, Sessions
from facade.client.watches.stream import behind
from facade.errors import BadRequestError
from facade.routes.batch import parse_line
from facade.routes.body import parse_json
from facade.routes.key import KEY_PREFIX, key_of, wants_json
from facade.routes.options import Headers, parse_read
from facade.routes.ranges import cursor
from facade.routes.ranges.cursor import CursorError
from facade.routes.ranges.request import RangeRequest, deletion_of, read_of
from facade.routes.txn import parse_txn
from facade.routes.watch import ids as watch_ids
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
    """JSON is read strictly, or refused: no NaN or infinity, no text that cannot be encoded again."""
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
    """An accepted cursor is one that the facade would have written."""
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


def check_session(content: bytes) -> None:
    """An accepted session token never promises less once it is issued again."""
    sessions = Sessions()
    sessions.know(b"cluster", 3)
    try:
        session = sessions.read(content)
    except BadRequestError:
        return
    assert all(index >= 0 for index in session.indexes.values())
    again = sessions.read(sessions.add(session, ()))
    assert again.epoch == max(3, session.epoch)
    assert again == session._replace(epoch=again.epoch) or again.partial


def _session_of(content: bytes) -> bytes:
    """A token whose checksum fits, for this cluster, with the content as its numbers."""
    head = bytes((SESSION_VERSION, content[0] & 1 if content else 0)) + sha256(b"cluster").digest()[:8]
    body = content[1:]
    raw = head + crc32c(body, crc32c(head)).to_bytes(4, "little") + body
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def seeds_session() -> Iterable[bytes]:
    """Of some shards, partial and of another cluster."""
    sessions = Sessions()
    sessions.know(b"cluster", 3)
    yield sessions.issue(1, 70)
    yield sessions.add(Session(1 << 40, {0: 1, 1023: (1 << 64) - 1}, partial=True), ())
    sessions.know(b"another", 3)
    yield sessions.issue(0, 1)
    yield b"\0\3\0\7\1\xff\1"


def check_watch_id(content: bytes) -> None:
    """An accepted id of a watch is one that the facade would have written."""
    try:
        text = content.decode()
        found = watch_ids.decode(text)
    except (UnicodeDecodeError, watch_ids.WatchIdError):
        return
    assert watch_ids.encode(found.cluster, found.epoch, found.positions) == text


def seeds_watch_id() -> Iterable[bytes]:
    """Whole revisions, and a place within one."""
    yield watch_ids.encode("0" * 16, 1, {0: behind(7), 3: behind(8) | 2}).encode()


def check_operations(body: bytes) -> None:
    """Operations of a batch and transactions in JSON become commands that nodes take, or are refused."""
    try:
        document = parse_json(body)
    except BadRequestError:
        return
    with contextlib.suppress(BadRequestError):
        compares, *branches = parse_txn(document)
        for operations in branches:
            payload.decode_batch(payload.encode_batch([_valid(operation) for operation in operations]))
        assert all(0 < len(compare.key) <= KEY_BYTES_MAX for compare in compares)
    for line in body.split(b"\n"):
        part = parse_line(0, line)
        if not isinstance(part.wanted, Exception):
            _valid(part.wanted)


def _valid(operation: Command) -> bytes:
    encoded = command.encode(*operation)
    if operation.opcode is not Opcode.GET:
        assert validate(encoded) == operation
    assert command.decode(encoded) == operation
    return encoded


def seeds_operations() -> Iterable[bytes]:
    """Lines of each operation, and a transaction of each comparison."""
    yield (
        b'{"op": "put", "key": "k", "value": "v", "ttl": "5s", "if_absent": true, "content_type": "a/b"}\n'
        b'{"op": "put", "key64": "_w", "value": "_w", "encoding": "base64", "ttl": "keep", "if_revision": "7"}\n'
        b'{"op": "get", "key": "k"}\n{"op": "delete", "key": "k", "if_exists": true}\n'
        b'{"op": "increment", "key": "k", "by": -1, "initial": "5"}\n{"op": "touch", "key": "k", "ttl": 7}'
    )
    yield (
        b'{"compare": [{"key": "a", "exists": true}, {"key": "b", "absent": true}, {"key": "c", "revision": "7"}, '
        b'{"key": "d", "value": "v"}], "success": [{"op": "get", "key": "a"}], "failure": []}'
    )


TARGETS = (
    Target("session", "session tokens", check_session, seeds_session, repair=_session_of),
    Target("watched", "ids of watches", check_watch_id, seeds_watch_id),
    Target("operations", "batches and transactions in JSON", check_operations, seeds_operations),
    Target("cursor", "cursors of ranges", check_cursor, seeds_cursor),
    Target("range", "queries for ranges", check_range, seeds_range),
    Target("key", "keys in paths, percent-decoded", check_key, seeds_key),
    Target("headers", "query, consistency and accept", check_headers, seeds_headers),
    Target("json", "JSON bodies", check_json, seeds_json),
    Target("map", "partition maps in the facade", check_map, seeds_map),
)
