"""The manifest: which tables the state consists of, as a log of version edits (docs/formats.md, Manifest).

``CURRENT`` names the manifest in force. The first record of a manifest makes the whole version; each later one changes
it. An edit is appended and synced, and then sealed: an empty record behind it, synced as well. So a damaged record
with nothing valid behind it was never acknowledged and is ignored; with a valid one behind it, it was, and the store
does not open. Every start, and every ``manifest_bytes``, begins a new manifest; nobody appends to one that another
process wrote. This module knows no table contents.

Invariants:
1. The manifest that ``CURRENT`` names is whole up to its last acknowledged edit.
2. Recovery writes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from crc32c import crc32c

from raft_node.errors import CorruptionError
from raft_node.storage.files import FileSystem
from raft_node.storage.tables.version import TableMeta, Version, VersionEdit, VersionError, table_name

# DO NOT CHANGE: this is in every manifest. docs/formats.md and a golden-bytes test fix it.
MAGIC = b"DOUG-MAN"
FORMAT = 1
_RECORD_HEADER = struct.Struct("<IIQB")  # CRC32C of all behind it, payload bytes, sequence, kind.
_EDIT = struct.Struct("<QQQII")  # Flushed index and term, next table number, how many removed, how many added.
_NUMBER = struct.Struct("<Q")
_TABLE = struct.Struct("<BQQQQHH")  # Level, number, file bytes, entries, tombstones, two key sizes.

CURRENT = "CURRENT"
MANIFEST_PREFIX = "MANIFEST-"
_DIGITS_MAX = 20
"""The most digits of a number of 64 bits."""


class RecordKind(IntEnum):
    """The kinds of records. DO NOT CHANGE THESE VALUES."""

    EDIT = 1
    """A version edit."""
    SEAL = 2
    """All records before it are durable."""


class ManifestRecord(NamedTuple):
    """A record, checked."""

    sequence: int
    kind: int
    payload: bytes


class Recovered(NamedTuple):
    """The state that recovery found.

    Attributes:
        version: The version as of the last whole record.
        number: The manifest's number.
        ignored_bytes: The size of a torn, unacknowledged tail.
    """

    version: Version
    number: int
    ignored_bytes: int


def manifest_name(number: int) -> str:
    """The file name of a manifest."""
    return f"{MANIFEST_PREFIX}{number:06d}"


def encode_edit(edit: VersionEdit) -> bytes:
    """The payload of an edit record."""
    parts = [
        _EDIT.pack(edit.flushed_index, edit.flushed_term, edit.next_table_number, len(edit.removed), len(edit.added))
    ]
    parts += [_NUMBER.pack(number) for number in edit.removed]
    for level, table in edit.added:
        parts.append(
            _TABLE.pack(
                level,
                table.number,
                table.size_bytes,
                table.entries,
                table.tombstones,
                len(table.smallest),
                len(table.largest),
            )
        )
        parts += [table.smallest, table.largest]
    return b"".join(parts)


def decode_edit(payload: bytes) -> VersionEdit:
    """Decodes the payload of an edit record.

    Raises:
        VersionError: The payload is no edit.
    """
    try:
        flushed_index, flushed_term, next_number, removed_count, added_count = _EDIT.unpack_from(payload)
        position = _EDIT.size
        removed = []
        for _ in range(removed_count):
            removed.append(_NUMBER.unpack_from(payload, position)[0])
            position += _NUMBER.size
        added = []
        for _ in range(added_count):
            level, number, size, entries, tombstones, first, last = _TABLE.unpack_from(payload, position)
            position += _TABLE.size
            smallest, largest = (
                payload[position : position + first],
                payload[position + first : position + first + last],
            )
            position += first + last
            added.append((level, TableMeta(number, size, entries, tombstones, smallest, largest)))
    except struct.error as error:
        raise VersionError(f"an edit is cut off: {error}") from error
    if position != len(payload):
        raise VersionError("an edit does not fill its record")
    return VersionEdit(tuple(removed), tuple(added), flushed_index, flushed_term, next_number)


def encode_record(sequence: int, kind: RecordKind, payload: bytes) -> bytes:
    """A record in its final bytes."""
    body = _RECORD_HEADER.pack(0, len(payload), sequence, kind)[4:] + payload
    return crc32c(body).to_bytes(4, "little") + body


def encode_file_header() -> bytes:
    """The first bytes of a manifest."""
    head = MAGIC + FORMAT.to_bytes(4, "little")
    return head + crc32c(head).to_bytes(4, "little")


def encode_current(number: int) -> bytes:
    """The content of CURRENT: the manifest's name and a checksum of it."""
    name = manifest_name(number).encode()
    return b"%s %08x\n" % (name, crc32c(name))


def replace_file(fs: FileSystem, directory: str, name: str, content: bytes) -> None:
    """Puts a small file in the place of another one, durably: after a crash it is the old one or the new one."""
    temporary = f"{directory}/{name}.tmp"
    file = fs.create(temporary)
    file.write_at(0, [content])
    # A rename may become durable before the content does.
    file.sync_data()
    file.close()
    fs.rename(temporary, f"{directory}/{name}")
    # From here on the new content is in force, also after a crash.
    fs.sync_directory(directory)


def remove_orphans(fs: FileSystem, directory: str, version: Version, manifest_number: int) -> None:
    """Removes the files that the manifest in force does not refer to, among those that an engine makes."""
    kept = {table_name(table.number) for table in version.tables()} | {manifest_name(manifest_number)}
    for name in fs.list_directory(directory):
        if name not in kept and (name.endswith((".sst", ".chg")) or name.startswith(MANIFEST_PREFIX)):
            fs.remove(f"{directory}/{name}")


def recover(fs: FileSystem, directory: str) -> Recovered | None:
    """Reads CURRENT and the manifest it names; None for a directory without a store.

    Raises:
        CorruptionError: A part that was acknowledged is damaged or missing.
    """
    path = f"{directory}/{CURRENT}"
    try:
        content = fs.read_file(path)
    except FileNotFoundError:
        _require_new_store(fs, directory)
        return None
    name, _, _ = content.partition(b" ")
    digits = name.removeprefix(MANIFEST_PREFIX.encode())
    if not digits.isdigit() or len(digits) > _DIGITS_MAX or content != encode_current(int(digits)):
        raise CorruptionError(path, 0, "it does not name a manifest")
    number = int(digits)
    manifest_path = f"{directory}/{manifest_name(number)}"
    try:
        data = fs.read_file(manifest_path)
    except FileNotFoundError as error:
        raise CorruptionError(manifest_path, 0, "the manifest is missing") from error
    version, end = _replay(manifest_path, data)
    return Recovered(version, number, len(data) - end)


def _require_new_store(fs: FileSystem, directory: str) -> None:
    """Makes sure that without CURRENT there is at most the first manifest of a creation that was interrupted."""
    for name in fs.list_directory(directory):
        if name.endswith(".sst") or (name.startswith(MANIFEST_PREFIX) and name != manifest_name(1)):
            raise CorruptionError(f"{directory}/{CURRENT}", 0, f"it is missing, but there is {name}")


def _replay(path: str, data: bytes) -> tuple[Version, int]:
    header = encode_file_header()
    if data[: len(header)] != header:
        raise CorruptionError(path, 0, "it does not begin like a manifest of a known format")
    version = Version.empty()
    position, sequence = len(header), 0
    while position < len(data):
        record = read_record(data, position)
        if record is None or record.sequence != sequence:
            # The first record was durable before CURRENT named this file, so it cannot be torn.
            if sequence == 0 or any(found >= sequence for found in _later_sequences(data, position + 1)):
                raise CorruptionError(path, position, f"record {sequence} is damaged")
            break
        kind, payload = record.kind, record.payload
        try:
            if kind == RecordKind.EDIT:
                version = version.apply(decode_edit(payload))
            elif kind != RecordKind.SEAL or payload:
                raise VersionError(f"unknown kind {kind}")
        except VersionError as error:
            raise CorruptionError(path, position, f"record {sequence}: {error}") from error
        position += record_bytes(record)
        sequence += 1
    if sequence == 0:
        raise CorruptionError(path, position, "it has no records")
    return version, position


def record_bytes(record: ManifestRecord) -> int:
    """The size of a record in the file."""
    return _RECORD_HEADER.size + len(record.payload)


def read_record(data: bytes, position: int) -> ManifestRecord | None:
    """The record at a position; None when there is no valid one."""
    start = position + _RECORD_HEADER.size
    if start > len(data):
        return None
    crc, size, sequence, kind = _RECORD_HEADER.unpack_from(data, position)
    if start + size > len(data) or crc32c(data[position + 4 : start + size]) != crc:
        return None
    return ManifestRecord(sequence, kind, data[start : start + size])


def _later_sequences(data: bytes, position: int) -> Iterator[int]:
    for start in range(position, len(data) - _RECORD_HEADER.size + 1):
        record = read_record(data, start)
        if record is not None:
            yield record.sequence


class Manifest:
    """The manifest in force, open for appending. Blocking, on one thread at a time."""

    def __init__(self, fs: FileSystem, directory: str, number: int, bytes_max: int, version: Version) -> None:
        """Begins a new manifest with the whole version and makes it the one in force.

        Args:
            fs: The file system of the data directory.
            directory: The data directory.
            number: The number of the manifest, greater than that of the one before.
            bytes_max: The bytes of edits after which the manifest is written anew.
            version: The version with which it begins.
        """
        self._fs = fs
        self._directory = directory
        self._bytes_max = bytes_max
        self._begin(number, version)

    @property
    def number(self) -> int:
        """The number of the file in force."""
        return self._number

    def append(self, edit: VersionEdit, version: Version) -> None:
        """Makes an edit durable.

        Args:
            edit: The change.
            version: The version after it.
        """
        record = encode_record(self._sequence, RecordKind.EDIT, encode_edit(edit))
        if self._size + len(record) > self._base_bytes + self._bytes_max:
            self.replace(version)
            return
        self._write(record)
        # The edit must be durable before it takes effect; then the seal, so that later damage to the edit is not
        # taken for a torn write. Without the second sync a crash could keep the next edit and lose this seal.
        self._write(encode_record(self._sequence, RecordKind.SEAL, b""))

    def replace(self, version: Version) -> None:
        """Begins a new manifest with a whole version, which need not follow from the last one, and switches to it."""
        self._file.close()
        before = self._number
        self._begin(before + 1, version)
        self._fs.remove(f"{self._directory}/{manifest_name(before)}")

    def close(self) -> None:
        """Closes the file, all of which is durable."""
        self._file.close()

    def _begin(self, number: int, version: Version) -> None:
        self._number = number
        self._file = self._fs.create(f"{self._directory}/{manifest_name(number)}")
        self._sequence = 0
        self._size = 0
        base = encode_record(0, RecordKind.EDIT, encode_edit(version.as_edit()))
        self._write(encode_file_header() + base + encode_record(1, RecordKind.SEAL, b""))
        self._sequence = 2
        self._base_bytes = self._size
        # Its name, and those of tables that are new in it, must be durable before CURRENT can refer to it.
        self._fs.sync_directory(self._directory)
        replace_file(self._fs, self._directory, CURRENT, encode_current(number))

    def _write(self, data: bytes) -> None:
        self._file.write_at(self._size, [data])
        self._file.sync_data()
        self._size += len(data)
        self._sequence += 1
