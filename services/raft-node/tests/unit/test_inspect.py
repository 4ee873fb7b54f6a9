"""The offline tools: whole files are shown whole, and damaged ones as far as they go, with every flipped bit told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from crc32c import crc32c

from doug_wire import command
from doug_wire.command import Opcode
from raft_node import entry
from raft_node.__main__ import main
from raft_node.commands import dougctl
from raft_node.entry import EntryKind
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.types import Configuration, NodeId
from raft_node.storage import inspect
from raft_node.storage.engine import Engine
from raft_node.storage.files import FileSystem, OsFileSystem
from raft_node.storage.inspect import Finding
from raft_node.storage.tables.manifest import RecordKind, encode_file_header, encode_record
from raft_node.storage.wal.log import Wal, WalHardState, WalOptions
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.files import MemoryFileSystem

WAL, DATA = "/n/wal", "/n/data"
UNITS = ("frame", "edit", "seal")


def write_log(fs: FileSystem, directory: str) -> str:
    """Three frames with an entry each; the path of the one segment."""
    wal = Wal.open(fs, directory, WalOptions(segment_bytes=4096))
    log = [
        entry.encode(1, 1, EntryKind.CONFIGURATION, 5, encode_configuration(Configuration((NodeId("a", 7),)))),
        entry.encode(2, 1, EntryKind.NOOP, 6),
        entry.encode(3, 2, EntryKind.COMMAND, 7, command.encode(Opcode.PUT, b"k\xff\n", b"text/plain", b"value")),
    ]
    for number, each in enumerate(log):
        wal.publish(wal.append(WalHardState(each.term, "a", 7, number), None, [each]))
    wal.close()
    return next(f"{directory}/{name}" for name in fs.list_directory(directory) if name.endswith(".wal"))


def write_store(fs: FileSystem, directory: str) -> None:
    """Tables on more than one level, and a manifest with edits."""
    engine = Engine.open(fs, directory, TINY_OPTIONS, "s1")
    for index in range(1, 61):
        key = b"\x01key%03d" % (index % 40)
        engine.write([(key, None if index % 7 == 0 else b"v%d" % index)], index, 1)
        if index % 20 == 0:
            engine.rotate()
            settle(engine, fs, directory)
    engine.close()


def kinds(findings: list[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


def of_suffix(fs: MemoryFileSystem, suffix: str) -> list[str]:
    return [path for path in fs.files() if path.endswith(suffix)]


@pytest.fixture
def store() -> MemoryFileSystem:
    fs = MemoryFileSystem()
    write_store(fs, DATA)
    return fs


def test_a_whole_segment() -> None:
    fs = MemoryFileSystem()
    found = list(inspect.segment(fs, write_log(fs, WAL)))
    assert kinds(found) == ["segment"] + ["frame", "entry"] * 3
    assert [f.fields["sequence"] for f in found if f.kind == "frame"] == [1, 2, 3]
    entries = [f.fields["entry"] for f in found if f.kind == "entry"]
    assert [each.index for each in entries if isinstance(each, entry.Entry)] == [1, 2, 3]


def test_behind_a_damaged_frame_the_next_one_is_shown() -> None:
    fs = MemoryFileSystem()
    path = write_log(fs, WAL)
    second = [f.offset for f in inspect.segment(fs, path) if f.kind == "frame"][1]
    fs.flip_bit(path, 8 * (second + 40))
    found = list(inspect.segment(fs, path))
    assert kinds(found) == ["segment", "frame", "entry", "damaged", "frame", "entry"]


def test_a_torn_last_write_is_no_damage() -> None:
    fs = MemoryFileSystem()
    path = write_log(fs, WAL)
    last = [f.offset for f in inspect.segment(fs, path) if f.kind == "frame"][-1]
    content = fs.read_file(path)
    fs.put(path, content[: last + 50].ljust(len(content), b"\0"))
    found = list(inspect.segment(fs, path))
    assert kinds(found)[-1] == "torn"
    assert "damaged" not in kinds(found)


def test_frames_are_shown_although_the_header_is_damaged() -> None:
    fs = MemoryFileSystem()
    path = write_log(fs, WAL)
    fs.flip_bit(path, 8 * 100)
    assert kinds(list(inspect.segment(fs, path))) == ["damaged"] + ["frame", "entry"] * 3


def test_every_flipped_bit_of_a_segment_is_told() -> None:
    fs = MemoryFileSystem()
    path = write_log(fs, WAL)
    written = len(fs.read_file(path).rstrip(b"\0"))
    for bit in range(0, 8 * written):
        fs.flip_bit(path, bit)
        assert "damaged" in kinds(list(inspect.segment(fs, path))), f"bit {bit}"
        fs.flip_bit(path, bit)


def test_whole_tables(store: MemoryFileSystem) -> None:
    for path in of_suffix(store, ".sst"):
        found = list(inspect.table(store, path, records=True))
        assert set(kinds(found)) == {"footer", "properties", "block", "record"}
        properties = next(f.fields for f in found if f.kind == "properties")
        assert properties["entries"] == kinds(found).count("record")


def test_behind_a_damaged_block_the_next_one_is_shown(store: MemoryFileSystem) -> None:
    path = next(
        path
        for path in of_suffix(store, ".sst")
        if kinds(list(inspect.table(store, path, records=False))).count("block") > 2
    )
    blocks = [f.offset for f in inspect.table(store, path, records=False) if f.kind == "block"]
    store.flip_bit(path, 8 * blocks[1] + 3)
    found = list(inspect.table(store, path, records=False))
    assert [f.offset for f in found if f.kind == "block"] == [blocks[0], *blocks[2:]]
    assert [f.offset for f in found if f.kind == "damaged"] == [blocks[1]]


def test_every_flipped_bit_of_a_table_is_told(store: MemoryFileSystem) -> None:
    path = min(of_suffix(store, ".sst"), key=lambda path: len(store.read_file(path)))
    for bit in range(8 * len(store.read_file(path))):
        store.flip_bit(path, bit)
        assert "damaged" in kinds(list(inspect.table(store, path, records=False))), f"bit {bit}"
        store.flip_bit(path, bit)


def test_a_whole_manifest(store: MemoryFileSystem) -> None:
    path = next(path for path in store.files() if "MANIFEST" in path)
    found = list(inspect.manifest(store, path))
    assert set(kinds(found)) == {"edit", "seal"}
    assert found[0].fields["sequence"] == 0


def test_every_flipped_bit_of_a_manifest_is_told(store: MemoryFileSystem) -> None:
    """Damage to the last record, a seal, cannot be told from a write that was cut; it carries nothing."""
    path = next(path for path in store.files() if "MANIFEST" in path)
    for bit in range(8 * len(store.read_file(path))):
        store.flip_bit(path, bit)
        assert {"damaged", "torn"} & set(kinds(list(inspect.manifest(store, path)))), f"bit {bit}"
        store.flip_bit(path, bit)


def test_behind_a_damaged_record_the_next_one_is_shown(store: MemoryFileSystem) -> None:
    path = next(path for path in store.files() if "MANIFEST" in path)
    whole = list(inspect.manifest(store, path))
    assert len(whole) > 3
    store.flip_bit(path, 8 * (whole[2].offset + 20))
    found = list(inspect.manifest(store, path))
    assert "damaged" in kinds(found)
    assert [f for f in found if f.kind != "damaged"] == [*whole[:2], *whole[3:]]


def test_a_record_of_an_unknown_kind_is_told(store: MemoryFileSystem) -> None:
    path = next(path for path in store.files() if "MANIFEST" in path)
    record = bytearray(encode_record(7, RecordKind.SEAL, b"")[4:])
    record[-1] = 99
    store.put(path, encode_file_header() + crc32c(bytes(record)).to_bytes(4, "little") + bytes(record))
    assert kinds(list(inspect.manifest(store, path))) == ["damaged", "damaged"], "the kind, and that it is not record 0"


def test_a_file_that_is_cut_off_anywhere_is_shown_as_far_as_it_goes(store: MemoryFileSystem) -> None:
    manifest = next(path for path in store.files() if "MANIFEST" in path)
    fs = MemoryFileSystem()
    segment = write_log(fs, WAL)
    for path, look in ((manifest, inspect.manifest), (segment, inspect.segment)):
        sound = (store if path == manifest else fs).read_file(path)
        cut = MemoryFileSystem()
        cut.make_directory(path.rpartition("/")[0])
        cut.put(path, sound)
        whole = list(look(cut, path))
        starts = [f.offset for f in whole if f.kind in UNITS]
        assert len(starts) >= 3
        for size in range(len(sound.rstrip(b"\0"))):
            cut.put(path, sound[:size])
            found = [f for f in look(cut, path) if f.kind not in ("damaged", "torn")]
            assert found == whole[: len(found)]
            assert sum(f.kind in UNITS for f in found) >= sum(start <= size for start in starts) - 1


def test_every_cut_of_a_table_is_told(store: MemoryFileSystem) -> None:
    path = min(of_suffix(store, ".sst"), key=lambda path: len(store.read_file(path)))
    sound = store.read_file(path)
    for size in range(len(sound)):
        store.put(path, sound[:size])
        assert kinds(list(inspect.table(store, path, records=True))) == ["damaged"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["raft-node", *arguments])
    return main()


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fs, wal_dir, data_dir = OsFileSystem(), str(tmp_path / "wal"), str(tmp_path / "data")
    write_log(fs, wal_dir)
    write_store(fs, data_dir)
    assert run(monkeypatch, "wal", "dump", "--json", "--values", wal_dir) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["index"] for line in lines if line["kind"] == "entry"] == [1, 2, 3]
    assert lines[2]["voters"] == ["a/7"]
    assert (lines[-1]["command"], lines[-1]["key"], lines[-1]["value"]) == ("PUT", "k\\xff\\n", "value")
    assert run(monkeypatch, "wal", "dump", wal_dir) == 0
    assert "value=" not in capsys.readouterr().out
    assert run(monkeypatch, "manifest", "dump", data_dir) == 0
    assert "edit" in capsys.readouterr().out
    assert run(monkeypatch, "sst", "dump", data_dir) == 0
    assert "space=user" in capsys.readouterr().out
    assert run(monkeypatch, "sst", "verify", data_dir) == 0
    assert "0 damaged" in capsys.readouterr().out


def test_damage_and_wrong_paths_have_exit_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = tmp_path / "data"
    write_store(OsFileSystem(), str(data_dir))
    table = next(data_dir.glob("*.sst"))
    content = bytearray(table.read_bytes())
    content[3] ^= 1
    table.write_bytes(content)
    assert run(monkeypatch, "sst", "verify", str(data_dir)) == 1
    shown = capsys.readouterr().out
    assert f"{table}: DAMAGED" in shown
    assert "at 0: data block" in shown
    assert run(monkeypatch, "sst", "dump", str(table)) == 1
    assert run(monkeypatch, "sst", "dump", str(tmp_path / "none")) == 2
    assert "is not there" in capsys.readouterr().err
    assert run(monkeypatch, "wal", "dump", str(data_dir)) == 2
    assert "holds no *.wal" in capsys.readouterr().err
    (tmp_path / "short.sst").write_bytes(b"short")
    assert run(monkeypatch, "sst", "verify", str(tmp_path / "short.sst")) == 1
    (tmp_path / "empty.wal").write_bytes(b"")
    assert run(monkeypatch, "wal", "dump", str(tmp_path / "empty.wal")) == 1


def test_dougctl_has_them_too() -> None:
    names = {
        group.info.help: [command.name for command in group.registered_commands]
        for group in (dougctl.wal, dougctl.sst, dougctl.manifest)
    }
    assert sorted(map(tuple, names.values())) == [("dump",), ("dump",), ("dump", "verify")]
