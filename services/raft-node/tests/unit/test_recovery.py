"""The recovery of a lost quorum: a plan changes nothing, only what was shown is carried out, and a cut does no harm."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from raft_node import entry
from raft_node.__main__ import main
from raft_node.app import recovery
from raft_node.app.recovery import Plan
from raft_node.entry import EntryKind
from raft_node.errors import CorruptionError, DiskError, IdentityError, RecoveryRefusedError
from raft_node.kv.state_machine import REVISIONS_LOST_MAX, StateMachine
from raft_node.raft.config import RaftConfig
from raft_node.raft.configuration import decode_configuration, encode_configuration
from raft_node.raft.node import RaftNode
from raft_node.raft.types import Configuration, HardState, NodeId, Role
from raft_node.runtime.disk.volume_lock import locked
from raft_node.runtime.log.store import to_raft, to_wal
from raft_node.runtime.members import identity as identities
from raft_node.storage.engine import Engine
from raft_node.storage.files import FileSystem, OsFileSystem
from raft_node.storage.options import EngineOptions
from raft_node.storage.wal.log import Wal, WalOptions
from raft_testing.engines import settle
from raft_testing.files import MemoryFileSystem

WAL, DATA = "/n/wal", "/n/data"
OTHERS = tuple(NodeId(f"shard-0-{number}", 100 + number) for number in range(1, 5))


def survivor(fs: FileSystem, wal_dir: str = WAL, data_dir: str = DATA, *, flush: bool = False) -> NodeId:
    """The volumes of one of five members: 9 entries of term 3, 5 of them known to be committed, a vote in term 4."""
    for directory in (wal_dir, data_dir):
        fs.make_directory(directory)
    identity = identities.load_or_create(fs, wal_dir, data_dir, "shard-0-0", 0)
    identities.join_cluster(fs, wal_dir, data_dir, identity, "c0ffee")
    me = NodeId(identity.name, identity.incarnation)
    command = encode_configuration(Configuration((me, *OTHERS)))
    log = [entry.encode(1, 1, EntryKind.CONFIGURATION, 1_000_001, command)]
    log += [entry.encode(index, 3, EntryKind.NOOP, 1_000_000 + index) for index in range(2, 10)]
    wal = Wal.open(fs, wal_dir, WalOptions(segment_bytes=4096))
    wal.publish(wal.append(to_wal(HardState(4, OTHERS[0], 5)), None, log))
    engine = Engine.open(fs, data_dir, EngineOptions(), "s1")
    if flush:
        StateMachine.open(engine).apply(log[:5])
        engine.rotate()
        settle(engine, fs, data_dir)
    engine.close()
    wal.close()
    return me


def plan(fs: FileSystem) -> Plan:
    return recovery.plan(fs, WAL, DATA)


def start(fs: FileSystem) -> RaftNode:
    """The core as the node starts it, with the configuration that the log's beginning or the state names."""
    found = plan(fs)
    identity = identities.load_or_create(fs, WAL, DATA, "shard-0-0", 0)
    wal = Wal.open(fs, WAL, WalOptions())
    me = NodeId(identity.name, identity.incarnation)
    first = decode_configuration(wal.entries(1, 2, 1)[0].command)
    core = RaftNode(RaftConfig(), me, wal, to_raft(wal.hard_state), first, 0, random.Random(1))
    assert core.configuration == found.configuration
    return core


def lead(core: RaftNode) -> None:
    for _ in range(1000):
        core.tick()
        while (ready := core.ready(writer_idle=True)) is not None:
            assert not ready.messages, "there is nobody to talk to"
            if ready.write is not None:
                core.persisted(ready.write.sequence)
            if core.role is Role.LEADER:
                return
    raise AssertionError("it never led")


@pytest.mark.parametrize("flush", [False, True])
def test_a_plan_tells_what_the_survivor_holds_and_changes_nothing(flush: bool) -> None:
    fs = MemoryFileSystem()
    me = survivor(fs, flush=flush)
    before, operations = fs.files(), len(fs.operations)
    found = plan(fs)
    assert found == Plan(me, 0, "c0ffee", Configuration((me, *OTHERS)), 4, 3, 9, 5, 1_000_009, 0)
    assert found.others == OTHERS
    assert fs.files() == before
    assert len(fs.operations) == operations


def test_the_survivor_leads_alone_and_keeps_its_whole_log() -> None:
    fs = MemoryFileSystem()
    me = survivor(fs)
    alone = recovery.carry_out(fs, WAL, DATA, plan(fs))
    assert alone.name == me.name
    assert alone.incarnation != me.incarnation
    core = start(fs)
    assert core.configuration == Configuration((alone,))
    assert core.commit_index == 11
    assert core.term == 5
    lead(core)


def test_the_members_that_come_back_cannot_count_it_nor_reach_it() -> None:
    """Without a new incarnation a leader of the old configuration could overwrite the recovered log."""
    fs = MemoryFileSystem()
    me = survivor(fs)
    alone = recovery.carry_out(fs, WAL, DATA, plan(fs))
    assert me not in (alone, *start(fs).configuration.voters)
    for directory in (WAL, DATA):
        identity = identities.read(fs, directory)
        assert identity is not None
        assert identity.incarnation == alone.incarnation


def test_a_plan_that_is_not_true_any_more_is_refused() -> None:
    fs = MemoryFileSystem()
    survivor(fs)
    shown = plan(fs)
    wal = Wal.open(fs, WAL, WalOptions())
    wal.publish(wal.append(None, None, [entry.encode(10, 4, EntryKind.NOOP, 2_000_000)]))
    wal.close()
    before = fs.files()
    with pytest.raises(RecoveryRefusedError, match="changed since"):
        recovery.carry_out(fs, WAL, DATA, shown)
    assert fs.files() == before
    assert plan(fs).token != shown.token


def test_it_is_done_once() -> None:
    fs = MemoryFileSystem()
    survivor(fs)
    recovery.carry_out(fs, WAL, DATA, plan(fs))
    with pytest.raises(RecoveryRefusedError, match="only member"):
        recovery.carry_out(fs, WAL, DATA, plan(fs))


@pytest.mark.parametrize("seed", range(4))
def test_a_cut_at_any_step_leaves_it_as_it_was_or_is_completed(seed: int) -> None:
    print(f"seed {seed}")
    counting = MemoryFileSystem()
    survivor(counting)
    begun = len(counting.operations)
    recovery.carry_out(counting, WAL, DATA, plan(counting))
    steps = len(counting.operations) - begun
    assert steps > 10
    for step in range(1, steps + 1):
        fs = MemoryFileSystem()
        me = survivor(fs)
        fs.fail_at(step)
        with pytest.raises(DiskError):
            recovery.carry_out(fs, WAL, DATA, plan(fs))
        fs.crash(random.Random(seed * 1000 + step))
        found = plan(fs)
        if found.configuration == Configuration((me, *OTHERS)):
            assert found.finishes == 0
            assert (found.node, found.last_index) == (me, 9)
        elif found.finishes:
            assert recovery.carry_out(fs, WAL, DATA, found).incarnation == found.finishes
        core_configuration = plan(fs).configuration
        if len(core_configuration.voters) == 1:
            lead(start(fs))


def test_between_log_and_identities_it_takes_no_part() -> None:
    fs = MemoryFileSystem()
    survivor(fs)
    shown = plan(fs)
    fs.fail_next("rename")
    with pytest.raises(DiskError):
        recovery.carry_out(fs, WAL, DATA, shown)
    found = plan(fs)
    assert found.finishes
    assert start(fs).id not in found.configuration.voters


def test_a_node_that_never_joined_is_refused() -> None:
    fs = MemoryFileSystem()
    for directory in (WAL, DATA):
        fs.make_directory(directory)
    with pytest.raises(IdentityError, match="holds no IDENTITY"):
        plan(fs)
    identities.load_or_create(fs, WAL, DATA, "shard-0-0", 0)
    with pytest.raises(RecoveryRefusedError, match="never was a member"):
        plan(fs)


def test_volumes_of_two_nodes_are_refused() -> None:
    fs = MemoryFileSystem()
    survivor(fs)
    other = identities.Identity("shard-0-1", 7, 0, "c0ffee")
    fs.make_directory("/other")
    identities.replace(fs, "/other", "/other", other)
    with pytest.raises(IdentityError, match="different nodes"):
        recovery.plan(fs, WAL, "/other")


def test_a_wiped_log_is_refused() -> None:
    fs = MemoryFileSystem()
    survivor(fs, flush=True)
    for name in fs.list_directory(WAL):
        if name.endswith(".wal"):
            fs.remove(f"{WAL}/{name}")
    with pytest.raises(IdentityError, match="the log was wiped"):
        plan(fs)


def test_a_damaged_log_is_refused_as_it_is() -> None:
    fs = MemoryFileSystem()
    survivor(fs)
    segment = next(path for path in fs.files() if path.endswith(".wal"))
    fs.flip_bit(segment, 8 * 100)
    before = fs.files()
    with pytest.raises(CorruptionError):
        plan(fs)
    assert fs.files() == before


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["raft-node", "recover-quorum", *arguments])
    return main()


def test_the_command_shows_the_plan_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fs, wal_dir, data_dir = OsFileSystem(), str(tmp_path / "wal"), str(tmp_path / "data")
    survivor(fs, wal_dir, data_dir)
    where = ["--wal-dir", wal_dir, "--data-dir", data_dir]
    found = recovery.plan(fs, wal_dir, data_dir)
    assert run(monkeypatch, *where) == 0
    shown = capsys.readouterr().out
    assert "Nothing was changed" in shown
    assert "WARNING" in shown
    assert f"--confirm {found.token}" in shown
    assert "ends at entry 9 of term 3" in shown
    assert run(monkeypatch, *where, "--confirm", "yes") == 3
    assert "does not confirm this plan" in capsys.readouterr().err
    assert recovery.plan(fs, wal_dir, data_dir) == found
    assert run(monkeypatch, *where, "--confirm", found.token) == 0
    assert "the only member of shard 0 now" in capsys.readouterr().out
    assert len(recovery.plan(fs, wal_dir, data_dir).configuration.voters) == 1


def test_the_command_refuses_a_node_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wal_dir, data_dir = str(tmp_path / "wal"), str(tmp_path / "data")
    survivor(OsFileSystem(), wal_dir, data_dir)
    with locked(wal_dir, data_dir):
        assert run(monkeypatch, "--wal-dir", wal_dir, "--data-dir", data_dir) == 3
    assert "in use by another process" in capsys.readouterr().err


def test_the_command_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DOUGDB_WAL_DIR", raising=False)
    monkeypatch.delenv("DOUGDB_DATA_DIR", raising=False)
    assert run(monkeypatch, "--data-dir", str(tmp_path)) == 2
    assert "--wal-dir is missing" in capsys.readouterr().err
    assert run(monkeypatch, "--wal-dir", str(tmp_path / "none"), "--data-dir", str(tmp_path)) == 2
    assert "is not a directory" in capsys.readouterr().err


def test_the_recovered_shard_is_of_another_generation_and_gives_no_lost_revision_again() -> None:
    fs = MemoryFileSystem()
    survivor(fs)
    recovery.carry_out(fs, WAL, DATA, plan(fs))
    wal = Wal.open(fs, WAL, WalOptions())
    engine = Engine.open(fs, DATA, EngineOptions(), "s2")
    machine = StateMachine.open(engine)
    assert (machine.generation, machine.floor) == (0, 0)
    machine.apply(wal.entries(1, wal.last_index + 1, 1 << 20))
    assert (machine.generation, machine.revision) == (1, REVISIONS_LOST_MAX)
    assert machine.floor == machine.revision, "no watch goes on behind what may be lost"
    # The state has it, hence every snapshot and every member that comes later.
    again = StateMachine.open(engine)
    assert (again.generation, again.revision, again.floor) == (1, REVISIONS_LOST_MAX, REVISIONS_LOST_MAX)
