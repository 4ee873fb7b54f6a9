"""The last resort after a shard has lost its quorum for good: one surviving node goes on alone, offline and explicitly.

A majority of the voters is gone with their disks, so nothing can be committed any more, and Raft has no answer to that.
``plan`` reads one survivor's volumes and changes nothing; ``carry_out`` makes that node the only member of its shard,
as a new incarnation. Everything in its log counts as committed from then on. What an operator must know of it is in
docs/operations.md, "A shard that lost its quorum".

Invariants:
1. The node does not run: both volumes are locked by the caller.
2. Only what ``plan`` found is carried out: if anything was changed since, it is refused.
3. The log is written first, with the new incarnation in it; a run that was cut off between log and identities is
   completed by the next one, and a node between the two takes no part.
4. The new incarnation was never used, so that members that come back after all can neither count this node's votes
   and acknowledgements for their configuration nor overwrite its log.
5. What was acknowledged and is lost is never taken for present: the shard begins another generation, whose indexes and
   revisions are not those of the one before.

Reference: the thesis, 4 (configurations take effect in the log), which offers nothing for this case.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

import xxhash

from doug_wire import command as commands
from doug_wire.command import Opcode
from raft_node import entry as entries
from raft_node.entry import EntryKind
from raft_node.errors import IdentityError, RecoveryRefusedError
from raft_node.kv.keyspace import CONFIGURATION_KEY, STATE_KEY, State
from raft_node.raft.configuration import decode_configuration, encode_configuration
from raft_node.raft.types import Configuration, HardState, NodeId
from raft_node.runtime.log.store import to_wal
from raft_node.runtime.members import identity as identities
from raft_node.runtime.members.identity import Identity
from raft_node.storage.files import FileSystem
from raft_node.storage.tables.manifest import recover
from raft_node.storage.tables.sstable import open_table
from raft_node.storage.tables.view import View
from raft_node.storage.wal.log import Wal, WalOptions

_SCAN_BYTES = 4 << 20


class Plan(NamedTuple):
    """The state of one survivor, and what a recovery would make of it.

    Attributes:
        node: The survivor, under its present name and incarnation.
        shard: The number of its shard.
        cluster_id: The id of its cluster.
        configuration: The members as of its log.
        term: The latest term that it knows.
        last_term: The term of its last entry. Of several survivors the one with the greatest pair of this ...
        last_index: ... and the index of its last entry has lost the least.
        commit_index: Up to here it knows that a quorum had it; what lies behind may have been acknowledged or not.
        timestamp_us: The log time of its last entry, in microseconds since the epoch.
        finishes: The new incarnation of an earlier run that was cut off; 0 if there was none.
    """

    node: NodeId
    shard: int
    cluster_id: str
    configuration: Configuration
    term: int
    last_term: int
    last_index: int
    commit_index: int
    timestamp_us: int
    finishes: int

    @property
    def token(self) -> str:
        """The text by which an operator confirms exactly this plan."""
        return xxhash.xxh3_64_hexdigest(repr(tuple(self)).encode())[:12]

    @property
    def others(self) -> tuple[NodeId, ...]:
        """The members that the shard will not have any more."""
        return tuple(m for m in (*self.configuration.voters, *self.configuration.learners) if m.name != self.node.name)


class _State(NamedTuple):
    """The members and the log time in a node's SSTables."""

    flushed_index: int
    configuration: bytes | None
    timestamp_us: int


def plan(fs: FileSystem, wal_dir: str, data_dir: str) -> Plan:
    """Reads a survivor's volumes; changes nothing; BLOCKING.

    Raises:
        IdentityError: The volumes belong to different nodes, or one was wiped.
        RecoveryRefusedError: There is nothing to recover: the node never was a member of a cluster.
        CorruptionError: A file is damaged.
    """
    wal_identity, data_identity = identities.read(fs, wal_dir), identities.read(fs, data_dir)
    for directory, found in ((wal_dir, wal_identity), (data_dir, data_identity)):
        if found is None:
            raise IdentityError(f"{directory} is not a volume of a node: it holds no {identities.FILE_NAME}")
    assert wal_identity is not None and data_identity is not None
    if _owner(wal_identity) != _owner(data_identity):
        raise IdentityError(f"{wal_dir} and {data_dir} belong to different nodes")
    if not wal_identity.cluster_id:
        raise RecoveryRefusedError(f"{wal_identity.name} never was a member of a cluster: wipe its volumes instead")
    state = _read_state(fs, data_dir)
    wal = Wal.open_for_read(fs, wal_dir)
    try:
        configuration, timestamp_us = _last_of_log(wal, state)
        hard_state, last_index = wal.hard_state, wal.last_index
        last_term = wal.term(last_index)
    finally:
        wal.close()
    if state.flushed_index > last_index:
        raise IdentityError(
            f"{data_dir} holds entry {state.flushed_index}, and {wal_dir} ends at {last_index}: "
            f"the log was wiped or replaced"
        )
    node = NodeId(wal_identity.name, wal_identity.incarnation)
    return Plan(
        node,
        wal_identity.shard,
        wal_identity.cluster_id,
        configuration,
        hard_state.term,
        last_term,
        last_index,
        max(hard_state.commit_index, state.flushed_index),
        timestamp_us,
        _cut_off(configuration, wal_identity, data_identity),
    )


def carry_out(fs: FileSystem, wal_dir: str, data_dir: str, shown: Plan) -> NodeId:
    """Makes the survivor the only member of its shard; BLOCKING.

    Args:
        fs: The file system.
        wal_dir: The volume of the survivor's log.
        data_dir: The volume of its SSTables.
        shown: The plan that the operator has agreed to.

    Returns:
        The new identity of the survivor.

    Raises:
        RecoveryRefusedError: The volumes do not fit the plan any more, or the survivor is the only member already.
        FatalError: See ``plan``; or the disk failed.
    """
    if plan(fs, wal_dir, data_dir) != shown:
        raise RecoveryRefusedError("the volumes changed since the plan was made; make a new one")
    if not shown.finishes and shown.configuration == Configuration((shown.node,)):
        raise RecoveryRefusedError(f"{shown.node.name} is the only member of shard {shown.shard} already; start it")
    alone = NodeId(shown.node.name, shown.finishes or secrets.randbits(63) | 1)
    if not shown.finishes:
        _append(fs, wal_dir, shown, alone)
    identities.replace(fs, wal_dir, data_dir, Identity(alone.name, alone.incarnation, shown.shard, shown.cluster_id))
    return alone


def _append(fs: FileSystem, wal_dir: str, shown: Plan, alone: NodeId) -> None:
    """Appends all of the recovery as one frame, so that a crash leaves the log as it was or recovered."""
    wal = Wal.open(fs, wal_dir, WalOptions())
    try:
        # A term in which no node has voted: no leader of an older configuration can have entries in it.
        term, index = shown.term + 1, shown.last_index + 1
        members = encode_configuration(Configuration((alone,)))
        recovered = commands.encode(Opcode.RECOVER, b"")
        appended = [
            entries.encode(index, term, EntryKind.CONFIGURATION, shown.timestamp_us, members),
            entries.encode(index + 1, term, EntryKind.COMMAND, shown.timestamp_us, recovered),
        ]
        wal.publish(wal.append(to_wal(HardState(term, None, index + 1)), None, appended))
    finally:
        wal.close()


def _owner(identity: Identity) -> tuple[str, int, str]:
    return identity.name, identity.shard, identity.cluster_id


def _cut_off(configuration: Configuration, wal_identity: Identity, data_identity: Identity) -> int:
    """The incarnation that an earlier run put into the log and could not put on both volumes any more; 0 for none."""
    found = {wal_identity.incarnation, data_identity.incarnation}
    if len(configuration.voters) == 1 and not configuration.learners:
        only = configuration.voters[0]
        if only.name == wal_identity.name and found != {only.incarnation}:
            return only.incarnation
    if len(found) > 1:
        raise IdentityError("the two volumes belong to different incarnations")
    return 0


def _read_state(fs: FileSystem, data_dir: str) -> _State:
    recovered = recover(fs, data_dir)
    if recovered is None:
        return _State(0, None, 0)
    version = recovered.version
    tables = {meta.number: open_table(fs, data_dir, meta) for meta in version.tables()}
    try:
        view = View(version, tables)
        state = view.find_blocking(STATE_KEY)
        timestamp_us = State.decode(state).clock_us if state is not None else 0
        return _State(version.flushed_index, view.find_blocking(CONFIGURATION_KEY), timestamp_us)
    finally:
        for table in tables.values():
            table.close()


def _last_of_log(wal: Wal, state: _State) -> tuple[Configuration, int]:
    """The last configuration in the log, or else in the SSTables, and the time of the last entry."""
    configuration, timestamp_us = state.configuration, state.timestamp_us
    position = wal.first_index
    while position <= wal.last_index:
        for entry in wal.entries(position, wal.last_index + 1, _SCAN_BYTES):
            if entry.kind == EntryKind.CONFIGURATION:
                configuration = entry.command
            timestamp_us = max(timestamp_us, entry.timestamp_us)
            position = entry.index + 1
    if configuration is None:
        raise RecoveryRefusedError("neither the log nor the SSTables name the members of the shard")
    return decode_configuration(configuration), timestamp_us
