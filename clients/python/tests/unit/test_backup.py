"""``dougctl backup``: what is written and when it counts, what is refused and removed, and a restore that is cut."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import pytest
import xxhash
from backing import FILES, SHARDS, FakeFacade, FakeNode, archive_of, facade_of, facts_of, run, shard_archive, starts

from dougdb import backups, restoring
from dougdb.commands import backup as command_module
from dougdb.commands import common
from dougdb.dev.layout import DataDirectory, Layout, RefusedError


@pytest.fixture
def facade(monkeypatch: pytest.MonkeyPatch) -> FakeFacade:
    return facade_of(monkeypatch)


@pytest.fixture
def made(facade: FakeFacade, tmp_path: Path) -> backups.Backup:
    result = run("create", tmp_path / "kept", "--json")
    assert result.exit_code == 0
    return backups.load(Path(json.loads(result.stdout)["path"]))


def test_a_backup_has_every_shard_and_a_manifest_that_says_so(made: backups.Backup) -> None:
    assert [cut.shard for cut in made.shards] == [0, 1]
    assert (made.cluster_id, made.backup_id) == ("c0ffee", made.path.name)
    for shard in range(SHARDS):
        folder = made.path / f"shard-{shard}"
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert sorted(path.name for path in made.path.iterdir()) == ["BACKUP.json", "shard-0", "shard-1"]
    document = json.loads((made.path / "BACKUP.json").read_text())
    expected = document.pop("xxh3")
    body = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    assert expected == xxhash.xxh3_64_hexdigest(body)
    assert {key: document["shards"][1][key] for key in ("index", "term", "log_time_us", "node")} == {
        "index": 41,
        "term": 4,
        "log_time_us": 77,
        "node": "shard-1-1",
    }


def test_a_transfer_that_breaks_is_begun_anew(facade: FakeFacade, tmp_path: Path) -> None:
    facade.script = {0: [shard_archive(0)[:4000]], 1: [httpx.ReadError("cut"), shard_archive(1)[:900]]}
    result = run("create", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert facade.asked == [0, 0, 1, 1, 1] and result.stderr.count("once more") == 3
    assert "2 shards" in result.stdout


SPOILED = {
    "content": shard_archive(1, {**FILES, "000002.sst": b"u" * 100}),
    "missing": shard_archive(1, {name: FILES[name] for name in ("CHECKPOINT", "000001.sst")}),
    "more": shard_archive(1, {**FILES, "000003.sst": b"x"}),
    "size": shard_archive(1, {**FILES, "000002.sst": b"t" * 99}),
    "name": archive_of({"SHARD.json": json.dumps(facts_of(1)).encode(), "../../evil": b"x"}),
    "listed": shard_archive(
        1,
        {"CHECKPOINT": b"c", "../evil.sst": b"x"},
        files=[{"name": name, "size_bytes": 1, "xxh3": "0"} for name in ("CHECKPOINT", "../evil.sst")],
    ),
    "shard": shard_archive(0),
    "format": shard_archive(1, format=2),
    "facts": archive_of({"SHARD.json": b"{"}),
    "none": b"",
    "text": b"x" * 2048,
}


@pytest.mark.parametrize("what", list(SPOILED))
def test_what_is_not_what_it_says_is_no_backup(facade: FakeFacade, tmp_path: Path, what: str) -> None:
    facade.script = {1: [SPOILED[what]] * command_module.ATTEMPTS}
    result = run("create", tmp_path / "kept")
    assert result.exit_code == 1 and "no backup was made" in result.stderr
    assert not list((tmp_path / "kept").iterdir()), "what was received is removed"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_shards_of_different_clusters_are_no_backup(facade: FakeFacade, tmp_path: Path) -> None:
    facade.script = {1: [shard_archive(1, cluster_id="other")]}
    result = run("create", tmp_path)
    assert result.exit_code == 1 and "different clusters" in result.stderr and not list(tmp_path.iterdir())


def test_a_shard_without_a_replica_is_said_so(facade: FakeFacade, tmp_path: Path) -> None:
    facade.script = {1: [httpx.ConnectError("nobody is there")] * command_module.ATTEMPTS}
    result = run("create", tmp_path)
    assert result.exit_code == common.ExitCode.UNAVAILABLE and not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_in_the_middle_leaves_nothing(facade: FakeFacade, tmp_path: Path, number: int) -> None:
    facade.script = {1: [lambda: os.kill(os.getpid(), number)]}
    result = run("create", tmp_path)
    assert result.exit_code == common.ExitCode.INTERRUPTED
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["file", "manifest"])
def test_a_full_disk_is_said_so(
    facade: FakeFacade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    synced = 0
    fails_at = 3 if where == "file" else SHARDS * (len(FILES) + 1) + 1
    real = os.fsync

    def full(descriptor: int) -> None:
        nonlocal synced
        synced += 1
        if synced == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    result = run("create", tmp_path)
    assert result.exit_code == 1 and "No space left on device" in result.stderr and synced == fails_at
    assert not list(tmp_path.iterdir())


def test_an_end_by_force_leaves_nothing_that_looks_complete(facade: FakeFacade, tmp_path: Path) -> None:
    """What is there at any moment before the manifest, as SIGKILL would leave it."""
    seen = []

    def look() -> None:
        (path,) = tmp_path.iterdir()
        seen.extend(backups.list_backups(tmp_path))
        with pytest.raises(backups.BackupError, match="was not finished"):
            backups.load(path)

    facade.script = {1: [look]}
    run("create", tmp_path)
    assert [entry.backup for entry in seen] == [None] and seen[0].size_bytes > 0


def test_the_list_shows_what_is_complete(made: backups.Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    directory = made.path.parent
    (directory / "20200101T000000Z-00000000").mkdir()
    (directory / "something else").mkdir()
    shown = run("list", directory).stdout
    assert "incomplete" in shown and " complete" in shown and "something else" not in shown
    first, second = json.loads(run("list", directory, "--json").stdout)
    assert (first["complete"], second["complete"], second["path"]) == (False, True, str(made.path))
    assert [shard["index"] for shard in second["shards"]] == [40, 41] and second["bytes"] == made.size_bytes
    assert run("list", directory / "nowhere").exit_code == common.ExitCode.USAGE


def test_only_the_newest_are_kept(facade: FakeFacade, tmp_path: Path) -> None:
    old = [json.loads(run("create", tmp_path, "--json").stdout)["path"] for _ in range(3)]
    for number, path in enumerate(old):
        manifest = Path(path) / "BACKUP.json"
        document = json.loads(manifest.read_text())
        document["begun_us"] = number
        document.pop("xxh3")
        manifest.write_text(json.dumps({**document, "xxh3": backups._hash_of(document)}))
    left = tmp_path / "20200101T000000Z-00000000"
    left.mkdir()
    facade.script = {shard: [shard_archive(shard, cluster_id="other")] for shard in range(SHARDS)}
    other = json.loads(run("create", tmp_path, "--json").stdout)["path"]
    result = json.loads(run("create", tmp_path, "--json", "--keep", "2").stdout)
    assert sorted(result["removed"]) == sorted([old[0], old[1], str(left)])
    assert {str(path) for path in tmp_path.iterdir()} == {old[2], other, result["path"]}


@pytest.mark.parametrize("what", ["flip", "short", "missing", "manifest"])
def test_damage_is_found(made: backups.Backup, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(restoring, "verify_deeply", lambda backup: None)
    assert run("verify", made.path).exit_code == 0
    victim = made.path / ("BACKUP.json" if what == "manifest" else "shard-1/000001.sst")
    content = bytearray(victim.read_bytes())
    content[40] ^= 1
    if what == "missing":
        victim.unlink()
    else:
        victim.write_bytes(content[:-1] if what == "short" else content)
    result = run("verify", made.path)
    assert result.exit_code == 1 and victim.name in result.stdout + result.stderr


NONSENSE = [b"[" * 100_000, b'{"xxh3": "", "a": ' * 10_000, b'{"xxh3": 1, "a": ' + b"9" * 5000 + b"}", b"[]", b"\xff"]


@pytest.mark.parametrize("content", NONSENSE, ids=["deep list", "deep object", "long number", "list", "no text"])
def test_a_manifest_that_makes_no_sense_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / backups.MANIFEST).write_bytes(content)
    with pytest.raises(backups.BackupError, match="damaged"):
        backups.load(tmp_path)


def nothing_is_told(cut: backups.ShardCut) -> Callable[[int], None]:
    return lambda count: None


@pytest.mark.parametrize("facts", [b"[" * 100_000, b'{"format": 1, "files": [], "voters": [], "shard": 1e999}'])
def test_facts_that_make_no_sense_are_refused(tmp_path: Path, facts: bytes) -> None:
    with pytest.raises(backups.IncompleteError):
        backups.receive_shard(io.BytesIO(archive_of({backups.FACTS: facts})), 0, tmp_path / "shard-0", nothing_is_told)


KINDS = [tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [True, False])
def test_an_archive_with_anything_but_plain_files_is_refused(tmp_path: Path, kind: bytes, first: bool) -> None:
    """Sparse files and the like are read on by tarfile, which fails in ways of its own when they are cut off."""
    entry = tarfile.TarInfo("CHECKPOINT")
    entry.type, entry.size = kind, 1024
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    # A sparse file's map goes on in the next block, of which there are three bytes.
    header[482] = 1
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(header)[0]  # type: ignore[attr-defined]  # It has no stub.
    archive = b"" if first else archive_of({backups.FACTS: json.dumps(facts_of(0)).encode()})[: 2 * tarfile.BLOCKSIZE]
    archive += bytes(header) + b"000"
    with pytest.raises(backups.IncompleteError, match=r"CHECKPOINT/? is no plain file"):
        backups.receive_shard(io.BytesIO(archive), 0, tmp_path / "shard-0", nothing_is_told)


def test_what_raft_node_finds_in_the_blocks_counts_too(made: backups.Backup) -> None:
    def found(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        assert list(arguments) == ["verify-backup", str(made.path)]
        return subprocess.CompletedProcess([], 1, "shard-0: DAMAGED, entry 1\n  x.sst: at byte 4: rotten\n", "")

    assert restoring.verify_deeply(made, found) == ["x.sst: at byte 4: rotten"]
    # The files of these tests are no tables at all.
    deep = restoring.verify_deeply(made)
    assert deep is not None and len(deep) >= SHARDS


def restore(backup: backups.Backup, data: Path, node: FakeNode, nodes: int | None = None) -> restoring.Plan:
    plan = restoring.plan_of(backup, data, nodes)
    with plan.data:
        restoring.occupy(plan)
        restoring.carry_out(plan, lambda count: None, node.run)
    return plan


def test_a_restore_gives_all_nodes_the_same_ids(made: backups.Backup, tmp_path: Path) -> None:
    node, data = FakeNode(), tmp_path / "data"
    plan = restore(made, data, node)
    assert plan.layout == Layout(SHARDS, 3) and starts(data, plan.layout)
    assert [call["--node-id"] for call in node.calls] == [f"shard-{s}-{n}" for s in range(2) for n in range(3)]
    assert {call["--restore-id"] for call in node.calls} == {plan.restore_id}
    assert node.calls[4] == {
        "--backup": str(made.path / "shard-1"),
        "--wal-dir": str(data / "shard-1-1" / "wal"),
        "--data-dir": str(data / "shard-1-1" / "data"),
        "--node-id": "shard-1-1",
        "--members": "shard-1-0,shard-1-1,shard-1-2",
        "--restore-id": plan.restore_id,
    }
    assert not (data / restoring.RESTORE).exists()
    assert restore(made, tmp_path / "more", FakeNode(), 5).layout == Layout(SHARDS, 5)


def test_a_restore_that_was_cut_does_not_start_and_goes_on_under_the_same_id(
    made: backups.Backup, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    cut = FakeNode(fails_at=3)
    with pytest.raises(RefusedError, match="shard-0-2: the disk is full"):
        restore(made, data, cut)
    assert not starts(data, Layout(SHARDS, 3))
    with pytest.raises(RefusedError, match="was cut off"):
        restore(made, data, FakeNode(), 5)
    rest = FakeNode()
    plan = restore(made, data, rest)
    assert len(rest.calls) == 6 and rest.calls[0]["--restore-id"] == cut.calls[0]["--restore-id"]
    assert starts(data, plan.layout)


@pytest.mark.parametrize("name", ["LAYOUT.json", "shard-0-0", "letters.txt"])
def test_a_restore_needs_an_empty_directory(made: backups.Backup, tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / name).write_text("precious")
    result = run("restore", made.path, "--data", data)
    assert result.exit_code == 1 and "not empty" in result.stderr
    assert [path.name for path in data.iterdir()] == [name]


def test_a_damaged_backup_is_refused_before_anything_is_made(made: backups.Backup, tmp_path: Path) -> None:
    (made.path / "shard-0" / "000002.sst").write_bytes(b"u" * 100)
    result = run("restore", made.path, "--data", tmp_path / "data")
    assert result.exit_code == 1 and "nothing was restored" in result.stderr
    assert not (tmp_path / "data").exists()
    unfinished = run("restore", tmp_path, "--data", tmp_path / "data")
    assert unfinished.exit_code == 1 and "no backup" in unfinished.stderr


def test_damage_that_only_raft_node_finds_is_refused_before_anything_is_made(
    made: backups.Backup, tmp_path: Path
) -> None:
    # The files of these tests have the right checksums, and are no tables at all.
    result = run("restore", made.path, "--data", tmp_path / "data")
    assert result.exit_code == 1 and "nothing was restored" in result.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("existed", [False, True])
def test_a_restore_that_raft_node_refuses_leaves_the_directory_as_it_was(
    made: backups.Backup, tmp_path: Path, existed: bool
) -> None:
    data = tmp_path / "data"
    if existed:
        data.mkdir()
    with pytest.raises(RefusedError, match=r"shard-0-0: the disk is full\Z"):
        restore(made, data, FakeNode(fails_at=1))
    assert data.exists() == existed and not (existed and list(data.iterdir()))
    assert starts(data, restore(made, data, FakeNode(), 5).layout)


def test_backups_are_for_their_owner_alone(made: backups.Backup) -> None:
    modes = {path.stat().st_mode & 0o777 for path in [made.path, *made.path.rglob("*")]}
    assert modes == {0o700, 0o600}


def test_a_directory_that_is_in_use_is_refused(made: backups.Backup, tmp_path: Path) -> None:
    with DataDirectory(tmp_path / "data") as other:
        other.occupy()
        with pytest.raises(RefusedError, match="in use"):
            restore(made, tmp_path / "data", FakeNode())
