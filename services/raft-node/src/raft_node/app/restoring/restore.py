"""Makes the volumes of one member of a new shard from a backup; offline, and only where nothing is.

Each member of the new shard gets the same state, and behind it the same log of one entry: a configuration with the new
members, in a term of its own, committed. Incarnations and the cluster's id follow from the backup and from the id of
the restore, which all members are given, so that they agree without having spoken to each other. What an operator must
know is in docs/operations.md, "Backup and restore".

Invariants:
1. Whatever was in a volume before is left as it was: only an empty one, or one where this same restore was cut off, is
   touched.
2. The identities are written last, the log's first. Until both volumes have one, the node refuses to start, and the
   same command begins anew; from then on it changes nothing any more, for the node may have run.
3. No identity of the old cluster is used again: neither its id nor an incarnation, so that what is left of it can
   neither be asked nor counted.

Reference: the thesis, 4 (configurations take effect in the log), and 5 (a log begins behind a snapshot).
"""

from __future__ import annotations

import re
from typing import NamedTuple

import xxhash

from raft_node import entry as entries
from raft_node.app.restoring.backup import Backup, ShardCut, check_blocks, check_cut
from raft_node.app.restoring.sources import Source
from raft_node.entry import EntryKind
from raft_node.errors import CorruptionError, RestoreRefusedError
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.types import Configuration, HardState, NodeId
from raft_node.runtime.log.store import to_wal
from raft_node.runtime.members import identity as identities
from raft_node.runtime.members.identity import RESTORING, Identity
from raft_node.runtime.snapshots.keeper import StateFacts
from raft_node.storage.files import FileSystem
from raft_node.storage.notes import read_note, remove_note, write_note
from raft_node.storage.snapshots.checkpoint import install_checkpoint
from raft_node.storage.wal.log import Wal, WalHardState, WalOptions

_COPY = "restored"
_KEPT = frozenset({"LOCK", "lost+found", RESTORING})
_RESTORE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class Restored(NamedTuple):
    """The result of a restore.

    Attributes:
        identity: The identity of the node whose volumes were made.
        last_index: The last entry of the log, which has the new members.
        already: Whether an earlier run had made the volumes.
    """

    identity: Identity
    last_index: int
    already: bool


class _Plan(NamedTuple):
    backup: Backup
    cut: ShardCut
    members: tuple[NodeId, ...]
    identity: Identity
    note: dict[str, object]


def cluster_id_of(backup_id: str, restore_id: str) -> str:
    """The id of the cluster that a restore makes."""
    return xxhash.xxh3_128_hexdigest(f"{backup_id}\n{restore_id}".encode())


def incarnation_of(backup_id: str, restore_id: str, shard: int, name: str) -> int:
    """The incarnation of a member of that cluster: 63 bits and never 0, as if it had been drawn."""
    return xxhash.xxh3_64_intdigest(f"{backup_id}\n{restore_id}\n{shard}\n{name}".encode()) >> 1 | 1


def restore(
    fs: FileSystem, source: Source, wal_dir: str, data_dir: str, node: str, members: tuple[str, ...], restore_id: str
) -> Restored:
    """Makes a member's volumes; BLOCKING. Requires: both directories exist and are locked.

    Args:
        fs: The file system.
        source: The shard in the backup.
        wal_dir: The volume of the member's log.
        data_dir: The volume of its SSTables.
        node: The member's name.
        members: The names of all members of the new shard, this one included.
        restore_id: The id of this restore: the same for all members of all shards, and of no other restore.

    Raises:
        RestoreRefusedError: The volumes are not empty, or the arguments contradict each other. Nothing was changed.
        CorruptionError: The backup is damaged.
        DiskError: The disk failed, or is full. The same command begins anew.
    """
    plan = _plan(source, node, members, restore_id)
    done = Restored(plan.identity, plan.cut.last_index + 1, already=True)
    if not _prepare(fs, plan, wal_dir, data_dir):
        source.discard()
        return done
    for directory in (wal_dir, data_dir):
        write_note(fs, directory, RESTORING, plan.note)
    facts = _put_state(fs, source, data_dir)
    _put_log(fs, wal_dir, plan, facts)
    # Only now may the node start.
    identities.replace(fs, wal_dir, data_dir, plan.identity)
    _tidy(fs, wal_dir, data_dir)
    return done._replace(already=False)


def _plan(source: Source, node: str, members: tuple[str, ...], restore_id: str) -> _Plan:
    if node not in members:
        raise RestoreRefusedError(f"{node} is not among the members {', '.join(members)}")
    odd = [name for name in members if not _NAME.fullmatch(name)]
    if odd or len(set(members)) != len(members):
        raise RestoreRefusedError(f"the members are names of nodes, each once, not {', '.join(members)}")
    if not _RESTORE_ID.fullmatch(restore_id):
        raise RestoreRefusedError("a restore's id has 1 to 64 letters, digits, dots, dashes or underscores")
    backup, cut = source.backup, source.cut
    made = tuple(
        sorted(NodeId(name, incarnation_of(backup.backup_id, restore_id, cut.shard, name)) for name in members)
    )
    me = next(member for member in made if member.name == node)
    identity = Identity(node, me.incarnation, cut.shard, cluster_id_of(backup.backup_id, restore_id))
    note: dict[str, object] = {
        "backup_id": backup.backup_id,
        "restore_id": restore_id,
        "shard": cut.shard,
        "node": node,
        "members": sorted(members),
    }
    return _Plan(backup, cut, made, identity, note)


def _prepare(fs: FileSystem, plan: _Plan, wal_dir: str, data_dir: str) -> bool:
    """Makes sure that the restore overwrites nothing; returns False if an earlier run has done all of it."""
    directories = (wal_dir, data_dir)
    found = {directory: identities.read(fs, directory) for directory in directories}
    for directory in directories:
        note, known = read_note(fs, directory, RESTORING), found[directory]
        if note is not None and note != plan.note:
            raise RestoreRefusedError(
                f"another restore into {directory} was cut off (id {note.get('restore_id')}): run that one again, or "
                f"empty both volumes"
            )
        # Only this very restore gives the incarnation and the cluster's id that the plan has.
        if known is not None and known != plan.identity:
            raise RestoreRefusedError(f"{directory} holds the data of {known.name}; a restore needs empty volumes")
        if known is None and note is None and (names := _content(fs, directory)):
            raise RestoreRefusedError(f"{directory} is not empty: it holds {names[0]}; a restore needs empty volumes")
    if found[wal_dir] is not None:
        if found[data_dir] is None:
            if read_note(fs, data_dir, RESTORING) is None:
                raise RestoreRefusedError(f"{data_dir} was emptied since it was restored: empty both volumes")
            # Log and state were whole before the first identity.
            identities.replace(fs, wal_dir, data_dir, plan.identity)
        _tidy(fs, wal_dir, data_dir)
        return False
    if found[data_dir] is not None:
        raise RestoreRefusedError(f"{wal_dir} was emptied since it was restored: empty both volumes")
    for directory in directories:
        # Files without an identity are of an earlier run, which the note shows.
        for name in _content(fs, directory):
            if name == _COPY:
                fs.remove_tree(f"{directory}/{name}")
            else:
                fs.remove(f"{directory}/{name}")
    return True


def _content(fs: FileSystem, directory: str) -> list[str]:
    """The names in a volume that an empty one would not have; a note that was never finished may be in an empty one."""
    return [name for name in fs.list_directory(directory) if name not in _KEPT and name != f"{RESTORING}.tmp"]


def _put_state(fs: FileSystem, source: Source, data_dir: str) -> StateFacts:
    copy, cut = f"{data_dir}/{_COPY}", source.cut
    fs.make_directory(copy)
    try:
        for file in cut.files:
            source.copy(fs, file, f"{copy}/{file.name}")
        source.finish()
        fs.sync_directory(copy)
        # The copies are checked, so that a fault on the way to this disk is found, too.
        facts = check_cut(fs, copy, cut)
        if not source.looked_through:
            check_blocks(fs, copy, cut)
    except CorruptionError:
        # The copy may be the only plain data of an encrypted backup.
        fs.remove_tree(copy)
        raise
    install_checkpoint(fs, data_dir, copy)
    fs.remove_tree(copy)
    return facts


def _put_log(fs: FileSystem, wal_dir: str, plan: _Plan, facts: StateFacts) -> None:
    cut = plan.cut
    wal = Wal.open(fs, wal_dir, WalOptions())
    try:
        wal.publish(wal.reset(cut.last_index, cut.last_term, WalHardState(cut.last_term, "", 0, cut.last_index)))
        # All members have these very bytes, in a term in which no node has led or voted.
        term, index = cut.last_term + 1, cut.last_index + 1
        command = encode_configuration(Configuration(plan.members))
        entry = entries.encode(index, term, EntryKind.CONFIGURATION, facts.timestamp_us, command)
        wal.publish(wal.append(to_wal(HardState(term, None, index)), None, [entry]))
    finally:
        wal.close()


def _tidy(fs: FileSystem, wal_dir: str, data_dir: str) -> None:
    for directory in (data_dir, wal_dir):
        remove_note(fs, directory, RESTORING)
