"""Fuzz targets of the parts of a store: manifest, CURRENT, change segments, checkpoints, a whole store."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from crc32c import crc32c

from raft_node.errors import CorruptionError
from raft_node.storage import inspect
from raft_node.storage.changes.segments import ChangeReader, encode_file_header, encode_frame
from raft_node.storage.engine import Engine
from raft_node.storage.memtable import Batch
from raft_node.storage.snapshots.checkpoint import decode_checkpoint, encode_checkpoint
from raft_node.storage.tables.manifest import (
    RecordKind,
    Recovered,
    decode_edit,
    encode_current,
    encode_edit,
    encode_record,
    manifest_name,
    recover,
)
from raft_node.storage.tables.manifest import (
    encode_file_header as encode_manifest_header,
)
from raft_node.storage.tables.version import TableMeta, Version, VersionEdit, VersionError
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.files import MemoryFileSystem
from raft_testing.fuzz.target import Target, damaged, disk

_DIRECTORY = "/data"
_MANIFEST = f"{_DIRECTORY}/{manifest_name(1)}"
_CURRENT = f"{_DIRECTORY}/CURRENT"
_CHANGES = f"{_DIRECTORY}/000001.chg"
_RECORD_BYTES = len(encode_record(0, RecordKind.SEAL, b""))
_FRAME_BYTES = 40


def _edits() -> list[VersionEdit]:
    first = TableMeta(1, 500, 6, 1, b"k0", b"k5")
    second = TableMeta(2, 700, 9, 0, b"", b"\xff" * 9)
    third = TableMeta(3, 900, 15, 0, b"a", b"z")
    return [
        Version.empty().as_edit(),
        VersionEdit((), ((0, first),), 7, 1, 2),
        VersionEdit((), ((0, second),), 9, 2, 3),
        VersionEdit((1, 2), ((1, third),), 9, 2, 4),
    ]


def _manifest(edits: list[VersionEdit]) -> bytes:
    records = b""
    for number, edit in enumerate(edits):
        records += encode_record(2 * number, RecordKind.EDIT, encode_edit(edit))
        records += encode_record(2 * number + 1, RecordKind.SEAL, b"")
    return encode_manifest_header() + records


def _recover(content: bytes) -> Recovered | None:
    fs = disk({_MANIFEST: content, _CURRENT: encode_current(1)})
    before = fs.files()
    for _ in inspect.manifest(fs, _MANIFEST):
        pass
    try:
        recovered = recover(fs, _DIRECTORY)
    except CorruptionError:
        recovered = None
    assert fs.files() == before, "recovery writes nothing"
    return recovered


def check_manifest(content: bytes) -> None:
    """A manifest gives a version, which gives the same version once it is written and read again; or it is refused."""
    recovered = _recover(content)
    if recovered is None:
        return
    again = _recover(_manifest([recovered.version.as_edit()]))
    assert again is not None and again.version == recovered.version and not again.ignored_bytes


def repair_manifest(content: bytes) -> bytes:
    """Makes the header right and the checksums of records fit, as far as their sizes lead."""
    return _repair_frames(content, encode_manifest_header(), _RECORD_BYTES)


def _repair_frames(content: bytes, header: bytes, frame_bytes: int) -> bytes:
    """A file of frames, each with a checksum, a size, and what else its ``frame_bytes`` hold before the content."""
    data = bytearray(content)
    data[: len(header)] = header
    position = len(header)
    while (start := position + frame_bytes) <= len(data):
        end = start + int.from_bytes(data[position + 4 : position + 8], "little")
        if end > len(data):
            break
        data[position : position + 4] = crc32c(bytes(data[position + 4 : end])).to_bytes(4, "little")
        position = end
    return bytes(data)


def seeds_manifest() -> Iterable[bytes]:
    """With one edit, with some, and with a torn one."""
    yield _manifest(_edits()[:1])
    yield _manifest(_edits())
    yield _manifest(_edits())[:-40]


def damage_manifest(script: bytes) -> None:
    """A damaged manifest is refused, or gives a version that was once current."""
    recovered = _recover(damaged(_manifest(_edits()), script))
    if recovered is None:
        return
    versions = [Version.empty()]
    for edit in _edits():
        versions.append(versions[-1].apply(edit))
    assert recovered.version in versions, "a version was recovered that was never written"


def check_edit(payload: bytes) -> None:
    """An edit is decoded to what its bytes stand for, and applied or refused."""
    try:
        edit = decode_edit(payload)
    except VersionError:
        return
    assert encode_edit(edit) == payload
    try:
        version = Version.empty().apply(edit)
    except VersionError:
        return
    assert Version.empty().apply(version.as_edit()) == version


def check_current(content: bytes) -> None:
    """CURRENT names a manifest, or is refused."""
    fs = disk({_CURRENT: content, _MANIFEST: _manifest(_edits()[:1])})
    try:
        recovered = recover(fs, _DIRECTORY)
    except CorruptionError:
        return
    assert recovered is not None and content == encode_current(recovered.number)


def repair_current(content: bytes) -> bytes:
    """Makes the checksum of CURRENT fit."""
    name = content.partition(b" ")[0]
    return b"%s %08x\n" % (name, crc32c(name))


def seeds_current() -> Iterable[bytes]:
    """Of a small number, of a big one."""
    yield encode_current(1)
    yield encode_current(123456789)


def check_changes(content: bytes) -> None:
    """A change segment gives the last write of each key, or is refused."""
    fs = disk({_CHANGES: content})
    try:
        reader = ChangeReader(fs, _CHANGES, len(content))
    except CorruptionError:
        return
    try:
        batch: list[tuple[bytes, bytes | None]] = []
        for keys, values, _ in reader.columns():
            batch += zip(keys, values, strict=True)
    finally:
        reader.close()
    assert [key for key, _ in batch] == sorted(reader.entries)
    frame = b"".join(encode_frame(batch, max(reader.applied_index, 1), reader.applied_term))
    again_content = encode_file_header() + frame
    again = ChangeReader(disk({_CHANGES: again_content}), _CHANGES, len(again_content))
    assert [(key, again.value(key)) for key in sorted(again.entries)] == batch
    again.close()


def repair_changes(content: bytes) -> bytes:
    """Makes the header right and the checksums of frames fit, as far as their sizes lead."""
    return _repair_frames(content, encode_file_header(), _FRAME_BYTES)


def seeds_changes() -> Iterable[bytes]:
    """None, frames with keys and values of one size and of many, tombstones, and a value that stays in the file."""
    yield encode_file_header()
    batches: list[Batch] = [
        [(b"k1", b"v1"), (b"k2", b"v2")],
        [(b"k1", None), (b"", b"v" * 30)],
        [],
        [(b"big", b"b" * 1500)],
    ]
    yield encode_file_header() + b"".join(b"".join(encode_frame(batch, at, 1)) for at, batch in enumerate(batches, 1))


def damage_changes(script: bytes) -> None:
    """A damaged change segment is refused: nothing in it may be missing, and none of it is torn."""
    sound = list(seeds_changes())[1]
    content = damaged(sound, script)
    try:
        reader = ChangeReader(disk({_CHANGES: content}), _CHANGES, len(sound))
    except CorruptionError:
        return
    reader.close()
    assert content == sound, "a damaged change segment was read"


def check_checkpoint(content: bytes) -> None:
    """A checkpoint's list is decoded to what its bytes stand for, or is refused."""
    try:
        checkpoint = decode_checkpoint("/copy", content)
    except CorruptionError:
        return
    assert encode_checkpoint(checkpoint.edit, [file.xxh3 for file in checkpoint.files]) == content


def repair_checkpoint(content: bytes) -> bytes:
    """Makes the checksum fit."""
    return content[:12] + crc32c(content[16:]).to_bytes(4, "little") + content[16:] if len(content) >= 16 else content


def seeds_checkpoint() -> Iterable[bytes]:
    """Of an empty version, of one with tables."""
    yield encode_checkpoint(_edits()[0], [])
    edits = _edits()
    yield encode_checkpoint(VersionEdit((), edits[1].added + edits[2].added, 9, 2, 3), [1, 2])


def check_store(script: bytes) -> None:
    """A store with one damaged file serves the right contents, or refuses."""
    files, expected = _sound_store()
    path = sorted(files)[script[0] % len(files) if script else 0]
    content = damaged(files[path], script[1:])
    fs = disk(files | {path: content})
    try:
        engine = Engine.open(fs, _DIRECTORY, TINY_OPTIONS, "s2")
        if engine.flushed_index < len(expected):
            # An edit that loses its seal, too, counts as never acknowledged: the log has its entries.
            assert path == f"{_DIRECTORY}/{content_name(files)}", "only a manifest can fall behind"
            engine.close()
            return
    except CorruptionError:
        assert fs.files() == files | {path: content}, "a store that is refused is left as it was"
        return
    try:
        for key, value in expected.items():
            assert engine.get_blocking(key) == value
        assert dict(engine.scan(b"", None)) == {key: value for key, value in expected.items() if value is not None}
    except CorruptionError:
        return
    finally:
        engine.close()


def content_name(files: dict[str, bytes]) -> str:
    """The manifest that CURRENT names."""
    return files[_CURRENT].partition(b" ")[0].decode()


@lru_cache(maxsize=1)
def _sound_store() -> tuple[dict[str, bytes], dict[bytes, bytes | None]]:
    fs = MemoryFileSystem()
    engine = Engine.open(fs, _DIRECTORY, TINY_OPTIONS, "s1")
    expected: dict[bytes, bytes | None] = {}
    for index in range(1, 10):
        key, value = b"k%d" % index, None if index == 4 else b"value %d" % index * index
        engine.write([(key, value)], index, 1)
        expected[key] = value
        if index % 3 == 0:
            engine.rotate()
            settle(engine, fs, _DIRECTORY)
    engine.close()
    # Only names in the directory itself; files below it belong to tasks that have ended.
    return {path: content for path, content in fs.files().items() if path.count("/") == 2}, expected


def seeds_store() -> Iterable[bytes]:
    """A flipped bit and a cut in each file."""
    for number in range(len(_sound_store()[0])):
        yield bytes((number,)) + b"\x21\0\0\0\x08\0\0\0"
        yield bytes((number,)) + bytes(8) + b"\x30\0\0\0"


TARGETS = (
    Target("manifest", "manifests", check_manifest, seeds_manifest, repair_manifest, damage_manifest),
    Target("edit", "version edits", check_edit, lambda: map(encode_edit, _edits())),
    Target("current", "CURRENT", check_current, seeds_current, repair_current),
    Target("changes", "change segments", check_changes, seeds_changes, repair_changes, damage_changes),
    Target("checkpoint", "the list of a checkpoint", check_checkpoint, seeds_checkpoint, repair_checkpoint),
    Target("store", "a whole store with one damaged file", check_store, seeds_store),
)
