"""Scans against a sorted dict, with every option, while the engine goes on: flushes, merges and later writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doug_wire.scan import PREFIX, decode_page
from doug_wire.slots import SLOTS, slot_of
from raft_node.kv.keyspace import StoredValue, encode_value, user_key
from raft_node.kv.scan import Scan, ScannedState, ScanOptions
from raft_node.storage.engine import Engine
from raft_node.storage.files import FileSystem
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.files import MemoryFileSystem

keys = st.text("ab/\xff", max_size=6).map(lambda text: text.encode("latin-1"))
bounds = st.one_of(st.just(b""), keys)
Write = tuple[bytes, bytes | None]
writes = st.lists(st.tuples(keys.filter(bool), st.one_of(st.none(), st.binary(max_size=30))), max_size=60)
options = st.builds(
    ScanOptions,
    start=bounds,
    end=st.one_of(st.none(), keys.filter(bool)),
    reverse=st.booleans(),
    limit=st.integers(0, 8),
    page_bytes=st.sampled_from([1, 60, 200, 1 << 17]),
    keys_only=st.booleans(),
    count_only=st.booleans(),
    delimiter=st.sampled_from([b"", b"", b"/", b"a/", b"\xff"]),
    prefix_bytes=st.integers(0, 3),
)
slots = st.one_of(st.none(), keys.filter(bool).map(slot_of))


def stored(value: bytes, revision: int) -> bytes:
    return encode_value(StoredValue(revision, b"t", value, 1))


class Store:
    """An engine and the same as a dict."""

    def __init__(self) -> None:
        self.fs: FileSystem = MemoryFileSystem()
        self.engine = Engine.open(self.fs, "/data", TINY_OPTIONS, "s")
        self.model: dict[bytes, tuple[bytes, int]] = {}
        self.index = 0

    def write(self, batch: Sequence[Write]) -> None:
        effects: list[Write] = [(b"\x00state", b"not a user's"), (b"\x02", b"nor this")]
        for key, value in batch:
            self.index += 1
            effects.append((user_key(key), None if value is None else stored(value, self.index)))
            if value is None:
                self.model.pop(key, None)
            else:
                self.model[key] = (value, self.index)
        for first in range(0, len(effects), 20):
            self.engine.write(effects[first : first + 20], self.engine.applied_index + 1, 1)


def expected(model: dict[bytes, tuple[bytes, int]], owned: set[int], asked: ScanOptions) -> tuple[list[object], bool]:
    """What is told, and whether there may be more."""
    found: list[object] = []
    for key in sorted(model, reverse=asked.reverse):
        if asked.slot not in (None, slot_of(key)):
            continue
        if slot_of(key) not in owned or key < asked.start or (asked.end is not None and key >= asked.end):
            continue
        value, revision = model[key]
        at = key.find(asked.delimiter, asked.prefix_bytes) if asked.delimiter else -1
        told: object = (key, b"" if asked.keys_only else value, revision)
        if at >= 0:
            told = key[: at + len(asked.delimiter)]
        if told not in found:
            found.append(told)
            if len(found) == asked.limit:
                return found, True
    return found, False


def told(scan: Scan) -> tuple[list[object], int, bool]:
    """What a scan tells, how many it says that these are, and whether there may be more."""
    found: list[object] = []
    count = 0
    while True:
        step = scan.step()
        blob = b"".join(step.records)
        assert len(blob) <= scan._options.page_bytes or len(step.records) == 1
        count += step.found
        found += [
            record.key if record.kind == PREFIX else (record.key, record.value, record.revision)
            for record in decode_page(blob)
        ]
        if step.last:
            return found, count, step.limited


@settings(max_examples=60)
@given(writes, writes, writes, options, st.sets(st.integers(0, SLOTS - 1), max_size=5), st.booleans(), slots)
def test_a_scan_tells_what_was_visible_at_its_point_in_the_log(
    first: list[Write],
    second: list[Write],
    later: list[Write],
    asked: ScanOptions,
    lost: set[int],
    some: bool,
    slot: int | None,
) -> None:
    # A slot does not go with a delimiter.
    asked = asked._replace(slot=None if asked.delimiter else slot)
    store = Store()
    store.write(first)
    settle(store.engine, store.fs, "/data")
    store.write(second)
    # Half of all slots, or all but those of a few keys.
    lost |= {slot_of(key) for key in list(store.model)[:2]}
    owned = {slot for slot in range(SLOTS) if slot not in lost and (some or slot % 2)}
    state = ScannedState(
        store.engine.hold().columns, [1 if slot in owned else 0 for slot in range(SLOTS)], 0, store.index
    )
    wanted, more = expected(store.model, owned, asked)
    scan = Scan(state, asked)
    # Whatever comes later does not count, nor does it take anything away.
    store.write(later)
    settle(store.engine, store.fs, "/data", idle=True)
    found, count, limited = told(scan)
    assert (found, count, limited) == ([] if asked.count_only else wanted, len(wanted), more)


@pytest.mark.parametrize("reverse", [False, True])
def test_what_lies_below_a_common_prefix_is_not_read(reverse: bool) -> None:
    store = Store()
    store.write([(b"%s/%05d" % (folder, number), b"v") for folder in (b"a", b"b", b"c") for number in range(400)])
    settle(store.engine, store.fs, "/data")
    hold = store.engine.hold()
    pieces = 0

    def columns(start: bytes, end: bytes | None, backwards: bool) -> Iterator[object]:
        nonlocal pieces
        for piece in hold.columns(start, end, backwards):
            pieces += 1
            yield piece

    state = ScannedState(columns, [1] * SLOTS, 0, 1)  # type: ignore[arg-type]
    found, _, _ = told(Scan(state, ScanOptions(delimiter=b"/", reverse=reverse)))
    assert found == sorted([b"a/", b"b/", b"c/"], reverse=reverse)
    assert pieces < 20, "more than a thousand keys are in hundreds of blocks"


def test_a_step_looks_at_a_bounded_number_of_records_also_when_none_counts() -> None:
    store = Store()
    store.write([(b"%05d" % number, b"v") for number in range(1000)])
    settle(store.engine, store.fs, "/data")
    scan = Scan(ScannedState(store.engine.hold().columns, [0] * SLOTS, 0, 1), ScanOptions())
    steps = 0
    while not (step := scan.step()).last:
        assert (step.records, step.found) == ([], 0)
        steps += 1
    assert steps > 5
