"""Opens what a node has stored, and makes sure that its parts belong together.

The log and the state are on two volumes. The state never ends behind the log, with one exception: a snapshot was being
installed when the node stopped. Then a note says so, and the log is reset here, as the node would have done.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from raft_node import entry as entries
from raft_node.app.bootstrap import FIRST_TERM
from raft_node.entry import EntryError, EntryKind
from raft_node.errors import CorruptionError, IdentityError
from raft_node.kv.keyspace import CONFIGURATION_KEY
from raft_node.kv.state_machine import StoredState, read_state
from raft_node.runtime.disk.space import release_for_start
from raft_node.settings import NodeSettings
from raft_node.storage.engine import Engine
from raft_node.storage.files import DiskFileSystem, FileSystem
from raft_node.storage.options import EngineOptions
from raft_node.storage.snapshots.incoming import discard_outdated
from raft_node.storage.snapshots.installing import read_installing, remove_installing
from raft_node.storage.tables.manifest import replace_file
from raft_node.storage.wal.log import Wal, WalHardState, WalOptions

FIRST_CONFIGURATION = "FIRST-CONFIGURATION"
"""The file with the bytes of entry 1, for members that start only when the log no longer holds that entry."""


class Opened(NamedTuple):
    """The opened log and engine, the states with which state machine and core begin, and the repairs that were made."""

    wal: Wal
    engine: Engine
    state: StoredState
    configuration: bytes | None
    wal_replay_s: float
    notes: tuple[str, ...]


def open_storage(fs: DiskFileSystem, settings: NodeSettings, start_id: str) -> Opened:
    """Reads the log and the manifest. Blocking.

    Raises:
        CorruptionError: A file is damaged.
        IdentityError: The log was wiped or replaced.
        DiskError: The disk failed.
    """
    options = EngineOptions(
        memtable_bytes=settings.memtable_bytes,
        block_cache_bytes=settings.block_cache_bytes,
        compression=settings.compression,
        history_bytes_max=settings.history_bytes_max,
        history_age_us=settings.history_age_ms * 1000,
    )
    release_for_start(fs, settings.data_dir, settings.reserve_bytes)
    started_s = time.perf_counter()
    wal = Wal.open(
        fs, settings.wal_dir, WalOptions(segment_bytes=settings.wal_segment_bytes), clock_s=time.perf_counter
    )
    wal_replay_s = time.perf_counter() - started_s
    engine = Engine.open(fs, settings.data_dir, options, start_id)
    notes = [str(note) for note in wal.recovery_notes]
    notes += _bring_together(fs, settings, wal, engine)
    discard_outdated(fs, settings.data_dir, engine.applied_index)
    engine.begin_replay(min(wal.hard_state.commit_index, wal.last_index))
    configuration = engine.get_blocking(CONFIGURATION_KEY)
    return Opened(wal, engine, read_state(engine), configuration, wal_replay_s, tuple(notes))


def _bring_together(fs: FileSystem, settings: NodeSettings, wal: Wal, engine: Engine) -> list[str]:
    """Ends the installation of a snapshot that was cut off, and refuses volumes that do not belong together."""
    applied, term = engine.applied_index, engine.applied_term
    installing = read_installing(fs, settings.data_dir)
    notes = []
    if applied < wal.first_index - 1:
        raise IdentityError(
            f"{settings.data_dir} ends with entry {applied}, and {settings.wal_dir} begins with entry "
            f"{wal.first_index}: the data was wiped or replaced by older data"
        )
    if applied > wal.last_index or (applied and wal.term(applied) != term):
        known = installing is not None and (installing.index, installing.term) == (applied, term)
        if not known or installing is None or wal.hard_state.term < installing.log_term:
            raise IdentityError(
                f"{settings.data_dir} has applied entry {applied} of term {term}, and "
                f"{settings.wal_dir} ends at {wal.last_index} or has another entry there: the log was wiped or replaced"
            )
        wal.publish(wal.reset(applied, term, _hard_state_behind(wal.hard_state, applied, term)))
        notes.append(f"the log was reset behind the snapshot of entry {applied}, whose installation was cut off")
    if installing is not None:
        # Only now, with a log that goes with the state, may the note go.
        remove_installing(fs, settings.data_dir)
    return notes


def _hard_state_behind(state: WalHardState, index: int, term: int) -> WalHardState:
    if term > state.term:
        return WalHardState(term, "", 0, index)
    return state._replace(commit_index=max(index, state.commit_index))


def first_configuration(fs: FileSystem, data_dir: str, wal: Wal) -> bytes:
    """The final bytes of entry 1, from the log or the file that keeps them; empty if never known here. Blocking.

    Raises:
        CorruptionError: The file, or the entry, is damaged.
    """
    path = f"{data_dir}/{FIRST_CONFIGURATION}"
    try:
        data = fs.read_file(path)
    except FileNotFoundError:
        if wal.first_index > 1 or wal.last_index == 0:
            return b""
        data = wal.entries(1, 2, 1)[0].data
        # Durable before the log may drop the entry, which it does not do before the node runs.
        replace_file(fs, data_dir, FIRST_CONFIGURATION, data)
    try:
        entry = entries.decode(data)
    except EntryError as error:
        raise CorruptionError(path, error.position, error.what) from error
    if (entry.index, entry.term, entry.kind) != (1, FIRST_TERM, EntryKind.CONFIGURATION):
        raise CorruptionError(path, 0, "it is not a shard's first configuration")
    return data
