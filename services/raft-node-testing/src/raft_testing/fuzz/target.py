"""The type of fuzz targets, and the way from the bytes of a fuzzer to the input of a decoder.

The first byte of an input chooses the mode. ``RAW`` passes the rest on as it is: checksums stop most of it.
``REPAIRED`` makes the checksums fit first, so that the code behind them is reached: a decoder must meet even
nonsense with right checksums with its one typed error. ``DAMAGED`` reads the rest as a place, 32 bits to flip there,
and a place to cut a sound file at: the damaged file must be refused, or the damage make no difference.

Invariant: a target has no state, so that the same bytes always give the same outcome.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from raft_testing.files import MemoryFileSystem

Check = Callable[[bytes], None]

SEGMENT_BYTES_MAX = 1 << 20
"""The largest size that a repaired file may announce, since a file of that size would be made in memory."""


class Mode(IntEnum):
    """The treatment of an input before it is decoded. DO NOT CHANGE THESE VALUES: they are in every corpus file."""

    RAW = 0
    REPAIRED = 1
    DAMAGED = 2


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder, or a few that belong together.

    Attributes:
        name: The target's name on the command line.
        what: The decoders, in words.
        check: Decodes a content, and raises if the decoder breaks a property.
        seeds: Sound contents, with which fuzzing begins.
        repair: Makes the checksums in a content fit; None if it has none.
        damage: Decodes a sound content after the damage that the bytes describe; None if damage could not be detected.
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
            Exception: An error that the decoder must not raise, or an ``AssertionError`` that names the broken
                property.
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
        """The seeds in each mode of the target."""
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


def load_corpus(path: Path) -> list[bytes]:
    """The inputs in a corpus file: a line is base64 of zlib of one; a line with a # says something of the next one."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return [zlib.decompress(base64.b64decode(line)) for line in lines]


def corpus_line(data: bytes) -> str:
    """The line of a corpus file that stands for an input."""
    return base64.b64encode(zlib.compress(data, 9)).decode()
