"""What a fuzz target is, and how the bytes of a fuzzer become an input for a decoder.

The first byte of an input chooses the mode. ``RAW`` hands the rest over as it is: a checksum stops most of it.
``REPAIRED`` makes the checksums fit first, so that what lies behind them is reached: a decoder must meet even
well-checksummed nonsense with its one typed error. ``DAMAGED`` reads the rest as a place, 32 bits to flip there, and a
place to cut a sound file at: what was damaged must be refused, or make no difference.

Invariant: a target has no state, so that the same bytes always give the same outcome.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from raft_node.storage.files import FileSystem
from raft_testing.files import MemoryFileSystem

Check = Callable[[bytes], None]

SEGMENT_BYTES_MAX = 1 << 20
"""Sizes that a file only announces are brought below this by a repair: the zeros would be made in memory."""


class Mode(IntEnum):
    """What becomes of an input before it is decoded. DO NOT CHANGE THESE VALUES: they are in every corpus file."""

    RAW = 0
    REPAIRED = 1
    DAMAGED = 2


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder, or a few that belong together.

    Attributes:
        name: What it is called on the command line.
        what: The decoders, in words.
        check: Decodes a content, and raises when that does what it must not.
        seeds: Contents that are sound, to begin with.
        repair: Makes the checksums in a content fit; None where there are none.
        damage: Decodes a sound content of its own that was damaged as the bytes say; None where nothing would tell.
    """

    name: str
    what: str
    check: Check
    seeds: Callable[[], Iterable[bytes]]
    repair: Callable[[bytes], bytes] | None = None
    damage: Check | None = None

    def run(self, data: bytes) -> None:
        """Runs one input.

        Raises:
            Exception: Whatever the decoder let through, or an ``AssertionError`` that says what does not hold.
        """
        if not data:
            return
        mode, content = data[0] % len(Mode), data[1:]
        if mode == Mode.DAMAGED and self.damage is not None:
            self.damage(content)
        elif mode == Mode.REPAIRED and self.repair is not None:
            self.check(self.repair(content))
        else:
            self.check(content)

    def inputs(self) -> list[bytes]:
        """The seeds in each mode that there is."""
        seeds = list(self.seeds())
        inputs = [bytes((Mode.RAW,)) + seed for seed in seeds]
        if self.repair is not None:
            inputs += [bytes((Mode.REPAIRED,)) + seed for seed in seeds]
        if self.damage is not None:
            inputs += [
                bytes((Mode.DAMAGED,)) + script for script in (b"\7\1\0\0" + b"\x10\0\0\0", bytes(8) + b"\x40\1")
            ]
        return inputs


def damaged(sound: bytes, script: bytes) -> bytes:
    """A sound file after up to 32 bits in a row were flipped, which any CRC32C finds, and it was cut off.

    Args:
        sound: The file.
        script: u32 place | 4 bytes to flip | u32 where to cut, 0 not to; zeros where it is too short.
    """
    script = script.ljust(12, b"\0")
    content = bytearray(sound)
    place = int.from_bytes(script[:4], "little") % len(sound)
    for offset, flip in enumerate(script[4:8][: len(sound) - place]):
        content[place + offset] ^= flip
    size = int.from_bytes(script[8:12], "little")
    return bytes(content[: size % len(sound)] if size else content)


def disk(files: dict[str, bytes]) -> MemoryFileSystem:
    """A disk with these files and their directories."""
    fs = MemoryFileSystem()
    for path, content in files.items():
        fs.make_directory(path.rpartition("/")[0])
        fs.put(path, content)
    return fs


def content_of(fs: FileSystem, path: str) -> bytes:
    """A file's bytes."""
    return fs.read_file(path)


def load_corpus(path: Path) -> list[bytes]:
    """The inputs in a corpus file: a line is base64 of zlib of one; a line with a # says something of the next one."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return [zlib.decompress(base64.b64decode(line)) for line in lines]


def corpus_line(data: bytes) -> str:
    """An input as a line of a corpus file."""
    return base64.b64encode(zlib.compress(data, 9)).decode()
