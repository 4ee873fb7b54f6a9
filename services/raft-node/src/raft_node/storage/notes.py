"""Notes: small files of one JSON object each, with a checksum, that are replaced as a whole (docs/formats.md, Notes).

Invariant: after a crash a note is the old one, the new one, or, at its first writing, not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from crc32c import crc32c

from raft_node.errors import CorruptionError
from raft_node.storage.files import FileSystem
from raft_node.storage.tables.manifest import replace_file


def encode_note(fields: Mapping[str, object]) -> bytes:
    """The content of a note."""
    body = json.dumps(fields, sort_keys=True).encode()
    return body + b"\n%08x\n" % crc32c(body)


def write_note(fs: FileSystem, directory: str, name: str, fields: Mapping[str, object]) -> None:
    """Writes a note, durably. Blocking."""
    replace_file(fs, directory, name, encode_note(fields))


def read_note(fs: FileSystem, directory: str, name: str) -> dict[str, object] | None:
    """Reads a note; None when there is none. Blocking.

    Raises:
        CorruptionError: The note is not what was written.
    """
    path = f"{directory}/{name}"
    try:
        content = fs.read_file(path)
    except FileNotFoundError:
        return None
    body, _, rest = content.partition(b"\n")
    if rest != b"%08x\n" % crc32c(body):
        raise CorruptionError(path, 0, "its checksum does not fit")
    return decode_object(path, body)


def decode_object(path: str, body: bytes) -> dict[str, object]:
    """Decodes a text that is one JSON object.

    Raises:
        CorruptionError: The text is no JSON object. The path is for the message.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CorruptionError(path, 0, f"it is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CorruptionError(path, 0, "it is not an object")
    return fields


def remove_note(fs: FileSystem, directory: str, name: str) -> None:
    """Removes a note, durably; a missing one is fine. Blocking."""
    fs.remove(f"{directory}/{name}")
    # A removed note may be wrong later, so it must not come back after a crash.
    fs.sync_directory(directory)
