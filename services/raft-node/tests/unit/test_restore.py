"""Restoring a member from a backup: all agree, only empty volumes, damage is refused, a cut is completed or refused."""

from __future__ import annotations

import functools
import io
import json
import random
from pathlib import Path

import pytest
import xxhash

from raft_node import entry
from raft_node.__main__ import main
from raft_node.app.restoring import backup as backups
from raft_node.app.restoring.restore import Restored, cluster_id_of, incarnation_of, restore
from raft_node.app.restoring.sources import FolderSource, StreamSource
from raft_node.app.storage import open_storage
from raft_node.entry import EntryKind
from raft_node.errors import CorruptionError, DiskError, IdentityError, RestoreRefusedError
from raft_node.kv.keyspace import CONFIGURATION_KEY
from raft_node.kv.state_machine import StateMachine
from raft_node.raft.config import RaftConfig
from raft_node.raft.configuration import decode_configuration, encode_configuration
from raft_node.raft.node import RaftNode
from raft_node.raft.types import Configuration, NodeId, Role
from raft_node.runtime.log.store import to_raft
from raft_node.runtime.members import identity as identities
from raft_node.runtime.members.identity import RESTORING
from raft_node.settings import NodeSettings
from raft_node.storage import inspect
from raft_node.storage.engine import Engine
from raft_node.storage.files import DiskFileSystem, FileSystem, OsFileSystem
from raft_node.storage.inspect import Finding
from raft_node.storage.notes import write_note
from raft_node.storage.snapshots.checkpoint import CHECKPOINT
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.files import MemoryFileSystem

BACKUP, SHARD, INDEX, TERM, TIME_US = "/backups/b1", 1, 30, 4, 77
FOLDER = f"{BACKUP}/shard-{SHARD}"
WAL, DATA = "/n/wal", "/n/data"
MEMBERS = ("shard-1-0", "shard-1-1", "shard-1-2")
OLD = tuple(NodeId(name, 500 + number) for number, name in enumerate(MEMBERS))


def seal(fs: FileSystem, root: str, document: dict[str, object]) -> None:
    """Writes the manifest as the client does."""
    body = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    text = json.dumps({**document, "xxh3": xxhash.xxh3_64_hexdigest(body)}, indent=2)
    file = fs.create(f"{root}/BACKUP.json")
    file.write_at(0, [text.encode()])
    file.close()


def a_backup(fs: FileSystem, root: str = BACKUP, work: str = "/old") -> dict[str, object]:
    """A backup of one shard with 28 keys, as ``dougctl backup create`` leaves it; gives its manifest."""
    engine = Engine.open(fs, work, TINY_OPTIONS, "s1")
    StateMachine.open(engine).apply(
        [entry.encode(1, 1, EntryKind.CONFIGURATION, TIME_US, encode_configuration(Configuration(OLD)))]
    )
    for index in range(2, INDEX + 1):
        engine.write([(b"\x01key%d" % index, b"%d" % (index * 7919**20))], index, TERM)
    engine.rotate()
    settle(engine, fs, work)
    folder = f"{root}/shard-{SHARD}"
    fs.make_directory(root)
    made = engine.checkpoint(folder).run()
    engine.close()
    content = fs.read_file(f"{folder}/{CHECKPOINT}")
    files = [(CHECKPOINT, len(content), xxhash.xxh3_64_intdigest(content))]
    files += [(file.name, file.size_bytes, file.xxh3) for file in made.files]
    document: dict[str, object] = {
        "format": 1,
        "backup_id": "b1",
        "cluster_id": "c0ffee",
        "shards": [
            {
                "shard": SHARD,
                "index": INDEX,
                "term": TERM,
                "log_time_us": TIME_US,
                "voters": list(MEMBERS),
                "files": [{"name": n, "size_bytes": size, "xxh3": f"{xxh3:016x}"} for n, size, xxh3 in files],
            }
        ],
    }
    seal(fs, root, document)
    return document


def empty(fs: FileSystem) -> None:
    for directory in (WAL, DATA):
        fs.make_directory(directory)


@functools.cache
def finished() -> dict[str, bytes]:
    """The files of a backup."""
    fs = MemoryFileSystem()
    a_backup(fs)
    return {path: content for path, content in fs.files().items() if path.startswith(BACKUP)}


def put_backup(fs: MemoryFileSystem) -> None:
    fs.make_directory(FOLDER)
    for path, content in finished().items():
        file = fs.create(path)
        file.write_at(0, [content])
        file.close()


def disk() -> MemoryFileSystem:
    fs = MemoryFileSystem()
    put_backup(fs)
    empty(fs)
    return fs


def run(fs: FileSystem, node: str = MEMBERS[0], restore_id: str = "r1", wal: str = WAL, data: str = DATA) -> Restored:
    return restore(fs, FolderSource(fs, FOLDER), wal, data, node, MEMBERS, restore_id)


def start(fs: DiskFileSystem, node: str = MEMBERS[0], wal: str = WAL, data: str = DATA) -> tuple[RaftNode, Engine]:
    """Opens the volumes as a node does at its start, and checks what holds for a restored one."""
    identity = identities.load_or_create(fs, wal, data, node, SHARD)
    identities.check_log_is_there(fs, wal, identity)
    settings = NodeSettings(
        node_id=node,
        shard_id=SHARD,
        initial_shards=2,
        seeds="h:1",
        peers=",".join(f"{n}=h:1" for n in MEMBERS),
        wal_dir=wal,
        data_dir=data,
    )
    opened = open_storage(fs, settings, "s2")
    stored = opened.engine.get_blocking(CONFIGURATION_KEY)
    assert stored is not None
    core = RaftNode(
        RaftConfig(),
        NodeId(identity.name, identity.incarnation),
        opened.wal,
        to_raft(opened.wal.hard_state),
        decode_configuration(stored),
        opened.engine.applied_index,
        random.Random(1),
    )
    return core, opened.engine


def campaign(core: RaftNode) -> None:
    for _ in range(1000):
        core.tick()
        if core.role is not Role.FOLLOWER:
            return
    raise AssertionError("it never campaigned")


def test_a_member_has_the_state_and_the_new_members_behind_it() -> None:
    fs = disk()
    done = run(fs)
    assert (done.last_index, done.already) == (INDEX + 1, False)
    assert done.identity == identities.Identity(
        MEMBERS[0], incarnation_of("b1", "r1", SHARD, MEMBERS[0]), SHARD, cluster_id_of("b1", "r1")
    )
    core, engine = start(fs)
    assert core.commit_index == INDEX + 1 and core.term == TERM + 1
    assert core.configuration.voters == tuple(
        sorted(NodeId(name, incarnation_of("b1", "r1", SHARD, name)) for name in MEMBERS)
    )
    assert not set(core.configuration.voters) & set(OLD)
    for index in range(2, INDEX + 1):
        assert engine.get_blocking(b"\x01key%d" % index) == b"%d" % (index * 7919**20)
    campaign(core)
    assert not any(RESTORING in path or "restored" in path for path in fs.files())


def test_all_members_agree_byte_for_byte() -> None:
    logs = set()
    for node in MEMBERS:
        fs = disk()
        run(fs, node)
        core, _ = start(fs, node)
        found = core.log.entries(INDEX + 1, INDEX + 2, 1 << 20)
        assert len(found) == 1 and found[0].term == TERM + 1 and found[0].timestamp_us == TIME_US
        logs.add((found[0].data, identities.load_or_create(fs, WAL, DATA, node, SHARD).cluster_id))
    assert len(logs) == 1


def test_another_restore_is_another_cluster_with_other_members() -> None:
    assert cluster_id_of("b1", "r1") != cluster_id_of("b1", "r2")
    assert cluster_id_of("b1", "r1") != cluster_id_of("b2", "r1")
    known = {incarnation_of(b, r, shard, name) for b in "12" for r in "12" for shard in range(4) for name in MEMBERS}
    assert len(known) == 48 and all(0 < number < 1 << 63 for number in known)


@pytest.mark.parametrize("where", [WAL, DATA])
@pytest.mark.parametrize("name", ["IDENTITY", "00000001.wal", "CURRENT", "notes.txt"])
def test_what_is_not_empty_is_left_as_it_is(where: str, name: str) -> None:
    fs = disk()
    if name == "IDENTITY":
        identities.load_or_create(fs, WAL, DATA, MEMBERS[0], SHARD)
    else:
        file = fs.create(f"{where}/{name}")
        file.write_at(0, [b"precious"])
        file.close()
    before = fs.files()
    with pytest.raises(RestoreRefusedError, match="empty"):
        run(fs)
    assert fs.files() == before


def test_a_restored_node_is_not_touched_again() -> None:
    """It may have run since: nothing but this same restore is done already, and anything else is refused."""
    fs = disk()
    run(fs)
    before, operations = fs.files(), fs.count("create")
    assert run(fs).already
    with pytest.raises(RestoreRefusedError, match="holds the data of"):
        run(fs, restore_id="r2")
    assert fs.files() == before and fs.count("create") == operations


@pytest.mark.parametrize("emptied", [WAL, DATA])
def test_a_volume_that_was_emptied_since_is_not_filled_again(emptied: str) -> None:
    """The other volume knows of votes and acknowledgements that this incarnation must not forget."""
    fs = disk()
    run(fs)
    fs.remove_tree(emptied)
    fs.make_directory(emptied)
    before = fs.files()
    with pytest.raises(RestoreRefusedError, match="was emptied since"):
        run(fs)
    assert fs.files() == before


def flip(fs: MemoryFileSystem, path: str) -> None:
    content = bytearray(fs.read_file(path))
    content[len(content) // 2] ^= 1
    file = fs.create(path)
    file.write_at(0, [bytes(content)])
    file.close()


@pytest.mark.parametrize("what", ["table", "checkpoint", "manifest", "missing", "short", "unfinished", "swapped"])
def test_a_damaged_backup_is_refused_and_the_node_does_not_start(what: str) -> None:
    fs = disk()
    tables = sorted(path for path in fs.files() if path.startswith(FOLDER) and path.endswith(".sst"))
    assert len(tables) > 1
    if what == "missing":
        fs.remove(tables[0])
    elif what == "unfinished":
        fs.remove(f"{BACKUP}/BACKUP.json")
    elif what == "short":
        content = fs.read_file(tables[0])
        file = fs.create(tables[0])
        file.write_at(0, [content[:-1]])
        file.close()
    elif what == "swapped":
        # A whole checkpoint, but another one than the manifest names.
        other = MemoryFileSystem()
        document = a_backup(other)
        document["shards"][0]["index"] = INDEX - 1  # type: ignore[index]
        seal(fs, BACKUP, document)
    else:
        flip(fs, {"table": tables[-1], "checkpoint": f"{FOLDER}/{CHECKPOINT}"}.get(what, f"{BACKUP}/BACKUP.json"))
    with pytest.raises(CorruptionError):
        run(fs)
    assert all(identities.read(fs, directory) is None for directory in (WAL, DATA))
    if what not in ("manifest", "unfinished"):
        with pytest.raises(IdentityError, match="was cut off"):
            identities.load_or_create(fs, WAL, DATA, MEMBERS[0], SHARD)


def test_every_flipped_byte_of_the_manifest_is_found() -> None:
    fs = disk()
    content = fs.read_file(f"{BACKUP}/BACKUP.json")
    whole = backups.load_backup(fs, BACKUP)
    for position in range(len(content)):
        spoiled = bytearray(content)
        spoiled[position] ^= 4
        file = fs.create(f"{BACKUP}/BACKUP.json")
        file.write_at(0, [bytes(spoiled)])
        file.close()
        try:
            assert backups.load_backup(fs, BACKUP) == whole, "only blanks may differ"
        except CorruptionError:
            continue


@pytest.mark.seconds
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_cut_at_any_step_is_completed_by_the_same_command(seed: int) -> None:
    print(f"seed {seed}")
    counting = disk()
    begun = len(counting.operations)
    run(counting)
    steps = len(counting.operations) - begun
    assert steps > 30
    ends = set()
    for step in range(1, steps + 1):
        fs = disk()
        fs.fail_at(step)
        with pytest.raises(DiskError):
            run(fs)
        fs.crash(random.Random(seed * 1000 + step))
        # The backup lies on a disk of its own, which was not cut.
        put_backup(fs)
        found = [identities.read(fs, directory) for directory in (WAL, DATA)]
        begun = any(fs.exists(f"{directory}/{RESTORING}") for directory in (WAL, DATA))
        if None in found and begun:
            with pytest.raises(IdentityError, match="was cut off"):
                identities.load_or_create(fs, WAL, DATA, MEMBERS[0], SHARD)
        if None in found or begun:
            ends.add((begun, None in found, run(fs).already))
        core, engine = start(fs)
        assert core.commit_index == INDEX + 1
        assert engine.get_blocking(b"\x01key7") == b"%d" % (7 * 7919**20)
    assert ends >= {(False, True, False), (True, True, False), (True, True, True), (True, False, True)}


def test_after_the_second_identity_nothing_is_touched_any_more() -> None:
    """The node may have run since, and have acknowledged what a new beginning would lose."""
    fs = disk()
    run(fs)
    note: dict[str, object] = {"backup_id": "b1", "restore_id": "r1", "shard": SHARD, "node": MEMBERS[0]}
    note["members"] = sorted(MEMBERS)
    write_note(fs, DATA, RESTORING, note)
    core, _ = start(fs)
    logged = {path: content for path, content in fs.files().items() if path.startswith("/n") and RESTORING not in path}
    assert run(fs).already
    assert {path: content for path, content in fs.files().items() if path.startswith("/n")} == logged
    assert core.commit_index == INDEX + 1


def test_another_restore_does_not_go_on_with_one_that_was_cut_off() -> None:
    fs = disk()
    fs.fail_at(12)
    with pytest.raises(DiskError):
        run(fs)
    fs.fail_at(1 << 30)
    with pytest.raises(RestoreRefusedError, match="id r1"):
        run(fs, restore_id="r2")


@pytest.mark.parametrize(
    ("node", "members", "restore_id", "text"),
    [
        ("x", MEMBERS, "r1", "not among the members"),
        ("a", ("a", "a"), "r1", "each once"),
        ("a", ("a", "B!"), "r1", "each once"),
        ("a", ("a",), "a b", "letters, digits"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    node: str, members: tuple[str, ...], restore_id: str, text: str
) -> None:
    fs = disk()
    with pytest.raises(RestoreRefusedError, match=text):
        restore(fs, FolderSource(fs, FOLDER), WAL, DATA, node, members, restore_id)
    with pytest.raises(RestoreRefusedError, match="is not a shard's directory"):
        restore(fs, FolderSource(fs, f"{BACKUP}/shard-2"), WAL, DATA, MEMBERS[0], MEMBERS, "r1")


def sent(fs: FileSystem, **changes: object) -> bytes:
    """What ``dougctl backup send`` writes of the shard."""
    manifest = json.loads(fs.read_file(f"{BACKUP}/BACKUP.json"))
    head = json.dumps({"stream": 1, "shard": SHARD, "manifest": manifest} | changes)
    return (
        head.encode()
        + b"\n"
        + b"".join(fs.read_file(f"{FOLDER}/{file['name']}") for file in manifest["shards"][0]["files"])
    )


def run_sent(fs: FileSystem, content: bytes) -> Restored:
    return restore(fs, StreamSource(io.BytesIO(content)), WAL, DATA, MEMBERS[0], MEMBERS, "r1")


def test_what_is_sent_makes_the_same_volumes_as_the_backup_itself() -> None:
    volumes = []
    for streamed in (False, True):
        fs = disk()
        content = sent(fs)
        done = run_sent(fs, content) if streamed else run(fs)
        assert not done.already
        core, engine = start(fs)
        assert core.commit_index == INDEX + 1
        assert engine.get_blocking(b"\x01key7") == b"%d" % (7 * 7919**20)
        volumes.append({path: data for path, data in fs.files().items() if path.startswith(WAL)})
        again = io.BytesIO(content)
        assert restore(fs, StreamSource(again), WAL, DATA, MEMBERS[0], MEMBERS, "r1").already
        assert not again.read(), "whoever sends it is not cut off"
    assert volumes[0] == volumes[1]


def test_of_a_stream_that_is_cut_off_or_damaged_anywhere_nothing_is_left_in_plain() -> None:
    whole = sent(disk())
    head = whole.index(b"\n") + 1
    places = range(head, len(whole), (len(whole) - head) // 40)
    spoiled = [whole[:place] for place in (0, 1, head - 1, *places, len(whole) - 1)]
    spoiled += [whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :] for place in places]
    spoiled += [whole + b"x", b"", b"[]\n", b"{}\n", b"[" * 100_000 + b"\n", b"\xff\n"]
    fs = disk()
    spoiled += [sent(fs, stream=2), sent(fs, shard=2), sent(fs, manifest=[]), sent(fs, manifest={"format": 1})]
    for content in spoiled:
        fs = disk()
        with pytest.raises(CorruptionError):
            run_sent(fs, content)
        assert {path.rpartition("/")[2] for path in fs.files() if path.startswith("/n/")} <= {RESTORING}
        assert all(identities.read(fs, directory) is None for directory in (WAL, DATA))
    # Whatever was wrong, the same command with a whole stream goes on.
    assert not run_sent(fs, whole).already


def test_blocks_that_nobody_could_look_at_before_are_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that was damaged when it was backed up has the checksum that the manifest names."""
    fs = disk()
    table = min(path for path in fs.files() if path.startswith(FOLDER) and path.endswith(".sst"))
    asked: list[str] = []

    def look(fs: FileSystem, path: str, *, records: bool) -> list[Finding]:
        asked.append(path)
        return [Finding(5, "damaged", {"what": "rotten"})] if path.endswith(table.rpartition("/")[2]) else []

    monkeypatch.setattr(inspect, "table", look)
    with pytest.raises(CorruptionError, match="rotten"):
        run_sent(fs, sent(fs))
    assert asked
    assert not any(path.startswith(f"{DATA}/restored") for path in fs.files())


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["raft-node", *arguments])
    return main()


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fs = OsFileSystem()
    root = str(tmp_path / "backup")
    a_backup(fs, root, str(tmp_path / "old"))
    folder = f"{root}/shard-{SHARD}"
    options = ["--wal-dir", str(tmp_path / "w"), "--data-dir", str(tmp_path / "d"), "--node-id", MEMBERS[0]]
    restoring = ["restore", "--backup", folder, *options, "--members", ",".join(MEMBERS), "--restore-id", "r1"]
    assert command(monkeypatch, "verify-backup", root) == 0
    assert "shard-1: ok, entry 30" in capsys.readouterr().out
    assert command(monkeypatch, *restoring) == 0
    assert "shard-1-0 of shard 1 is restored" in capsys.readouterr().out
    assert command(monkeypatch, *restoring) == 0
    assert "was restored already" in capsys.readouterr().out
    assert command(monkeypatch, *restoring[:-1], "r2") == 3
    assert "needs empty volumes" in capsys.readouterr().err
    assert command(monkeypatch, "restore", "--backup", folder, "--members", "a", "--restore-id", "r") == 2
    table = sorted((tmp_path / "backup" / f"shard-{SHARD}").glob("*.sst"))[0]
    content = bytearray(table.read_bytes())
    content[5] ^= 1
    table.chmod(0o600)
    table.write_bytes(content)
    assert command(monkeypatch, "verify-backup", root) == 1
    shown = capsys.readouterr().out
    assert "shard-1: DAMAGED" in shown and table.name in shown and "at byte" in shown
    assert command(monkeypatch, "verify-backup", str(tmp_path)) == 1
    elsewhere = [*restoring[:3], "--wal-dir", str(tmp_path / "w2"), "--data-dir", str(tmp_path / "d2")]
    assert command(monkeypatch, *elsewhere, "--node-id", MEMBERS[0], *restoring[-4:]) == 1


@pytest.mark.parametrize(("form", "words"), [(2, "its files are encrypted"), (3, "this version knows 1 only")])
def test_a_backup_of_another_format_says_what_reads_it(form: int, words: str) -> None:
    fs = disk()
    seal(fs, BACKUP, {**a_backup(MemoryFileSystem()), "format": form})
    with pytest.raises(CorruptionError, match=words):
        run(fs)
