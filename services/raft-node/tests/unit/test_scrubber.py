"""The background check of SSTables: every byte of every table, at its pace, and what it tells of damage."""

from __future__ import annotations

import asyncio

import pytest

from raft_node.observability.metrics import Metrics
from raft_node.runtime.disk import scrubber as scrubbers
from raft_node.runtime.disk.scrubber import Scrubber
from raft_node.storage.engine import Engine
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.files import MemoryFileSystem

D = "/data"


class Rig:
    """An engine with a few tables, and a scrubber whose pauses are only noted."""

    def __init__(self) -> None:
        self.fs = MemoryFileSystem()
        self.engine = Engine.open(self.fs, D, TINY_OPTIONS, "s1")
        self.metrics = Metrics(0)
        self.events: list[tuple[str, dict[str, object]]] = []
        self.slept_s: list[float] = []
        for first in (1, 41):
            for index in range(first, first + 40):
                self.engine.write([(b"key%02d" % index, b"%d" % index * 20)], index, 1)
            self.engine.rotate()
            settle(self.engine, self.fs, D)
        self.scrubber = Scrubber(
            self.engine.tables,
            1000,
            3600.0,
            self.metrics,
            lambda name, **details: self.events.append((name, details)),
            self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        if seconds == 3600.0:
            # Once round is enough.
            raise asyncio.CancelledError

    def value(self, name: str) -> float:
        value = self.metrics.registry.get_sample_value(name, {"shard": "0"})
        assert value is not None
        return value

    def flip(self, path: str, offset: int) -> None:
        """Damages the file that is open, as a disk would."""
        before = self.fs.read_file(path)[offset]
        self.fs.open_for_write(path).write_at(offset, [bytes([before ^ 1])])


async def test_all_of_every_table_is_read_at_its_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbers, "STEP_BYTES", 300)
    rig = Rig()
    with pytest.raises(asyncio.CancelledError):
        await rig.scrubber.run()
    size = sum(table.size_bytes for table in rig.engine.tables())
    footers = 64 * len(rig.engine.tables())
    assert size - footers <= rig.value("dougdb_scrub_bytes_total") <= size
    assert rig.slept_s[0] == scrubbers.FIRST_AFTER_S
    assert sum(rig.slept_s[1:-1]) == pytest.approx(rig.value("dougdb_scrub_bytes_total") / 1000)
    assert max(rig.slept_s[1:-1]) < 2, "in small steps"
    assert rig.value("dougdb_scrub_rounds_total") == 1
    assert rig.value("dougdb_scrub_damaged_tables") == 0 and not rig.events


async def test_a_flipped_bit_anywhere_in_a_table_is_found_and_told() -> None:
    rig = Rig()
    table = rig.engine.tables()[0]
    for offset in range(0, table.size_bytes, 7):
        rig.flip(table.path, offset)
        await rig.scrubber.look()
        rig.flip(table.path, offset)
        name, details = rig.events.pop()
        assert (name, details["path"]) == ("scrub_damaged", table.path) and not rig.events, offset
        assert rig.value("dougdb_scrub_damaged_tables") == 1
    before = rig.value("dougdb_scrub_damages_total")
    assert before == len(range(0, table.size_bytes, 7))
    await rig.scrubber.look()
    assert rig.value("dougdb_scrub_damaged_tables") == 0, "it was mended"
    assert rig.value("dougdb_scrub_damages_total") == before


async def test_a_table_that_a_compaction_replaced_is_no_damage() -> None:
    rig = Rig()
    old = rig.engine.tables()
    given = [old, rig.engine.tables()]
    for table in old:
        rig.flip(table.path, 3)
    scrubber = Scrubber(
        lambda: given.pop(0) if len(given) > 1 else [],
        1000,
        1.0,
        rig.metrics,
        lambda name, **details: rig.events.append((name, details)),
        rig.sleep,
    )
    await scrubber.look()
    assert not rig.events


async def test_it_can_be_switched_off() -> None:
    rig = Rig()
    await Scrubber(rig.engine.tables, 0, 1.0, rig.metrics, lambda name, **details: None, rig.sleep).run()
    assert not rig.slept_s and rig.value("dougdb_scrub_bytes_total") == 0
