"""The note of a snapshot that is being installed, which tells a start why the log lags behind the state on purpose.

Installing a snapshot switches the state first and resets the log second. In between the log ends before the state, as
it would if the log's volume had been wiped. The note ``INSTALLING`` in the data directory, durable before the switch
and removed after the reset, makes the difference (docs/formats.md, Notes).

Invariant: a log is reset at a start only if the note names the very entry that the state ends with, and the log knows
the term that the node had then. A log that was wiped meanwhile does not, and is refused.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from raft_node.errors import CorruptionError
from raft_node.storage.files import FileSystem
from raft_node.storage.notes import read_note, remove_note, write_note

INSTALLING = "INSTALLING"


@dataclass(frozen=True, slots=True)
class Installing:
    """A snapshot that is being installed.

    Attributes:
        index: The last entry that the snapshot includes.
        term: The term of that entry.
        log_term: The term in the log's hard state when the installation began.
    """

    index: int
    term: int
    log_term: int


def write_installing(fs: FileSystem, data_dir: str, installing: Installing) -> None:
    """Writes the note, durably. Blocking."""
    write_note(fs, data_dir, INSTALLING, asdict(installing))


def read_installing(fs: FileSystem, data_dir: str) -> Installing | None:
    """Reads the note; None when nothing was being installed. Blocking.

    Raises:
        CorruptionError: The note is not what was written.
    """
    fields = read_note(fs, data_dir, INSTALLING)
    if fields is None:
        return None
    match fields:
        case {"index": int(index), "term": int(term), "log_term": int(log_term)}:
            return Installing(index, term, log_term)
    raise CorruptionError(f"{data_dir}/{INSTALLING}", 0, "a number is missing")


def remove_installing(fs: FileSystem, data_dir: str) -> None:
    """Removes the note, durably. Blocking."""
    remove_note(fs, data_dir, INSTALLING)
