"""``dougctl backup`` with encryption: what is on disk, who can read it, and a restore that leaves nothing readable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from backing import FILES, SHARDS, FakeFacade, FakeNode, facade_of, run, shard_archive, starts

from dougdb import backups, checking, restoring, sealing
from dougdb.dev.layout import RefusedError


@pytest.fixture
def facade(monkeypatch: pytest.MonkeyPatch) -> FakeFacade:
    return facade_of(monkeypatch)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    for name in ("mine", "other"):
        made = run("keygen", folder / f"{name}.key")
        assert made.exit_code == 0
        (folder / f"{name}.pub").write_text(made.stdout)
    return folder


@pytest.fixture
def made(facade: FakeFacade, tmp_path: Path, keys: Path) -> backups.Backup:
    result = run("create", tmp_path / "kept", "--encrypt-to", keys / "mine.pub", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["encrypted"]
    return backups.load(Path(told["path"]))


def test_nothing_but_the_manifest_can_be_read(made: backups.Backup, keys: Path) -> None:
    assert made.encrypted
    for shard in range(SHARDS):
        found = {path.name: path.read_bytes() for path in (made.path / f"shard-{shard}").iterdir()}
        assert set(found) == {f"{name}.age" for name in FILES}
        assert not any(content[:50] in hidden for content in FILES.values() for hidden in found.values())
    document = json.loads((made.path / "BACKUP.json").read_text())
    assert document["format"] == 2
    assert document["encryption"] == {
        "format": "age-encryption.org/v1",
        "recipients": [(keys / "mine.pub").read_text().strip()],
    }
    assert "AGE-SECRET" not in (made.path / "BACKUP.json").read_text()
    assert {path.stat().st_mode & 0o777 for path in [made.path, *made.path.rglob("*")]} == {0o700, 0o600}


def test_nothing_is_ever_written_unencrypted(facade: FakeFacade, tmp_path: Path, keys: Path) -> None:
    """What is there when the last shard breaks off, as SIGKILL would leave it."""
    seen: list[bytes] = []

    def look() -> None:
        seen.extend(path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file())

    facade.script = {1: [look]}
    assert run("create", tmp_path / "kept", "--encrypt-to", keys / "mine.pub").exit_code == 0
    assert len(seen) >= len(FILES)
    assert not any(content[:50] in hidden for content in FILES.values() for hidden in seen)


def test_it_is_listed_and_verified_with_and_without_the_key(made: backups.Backup, keys: Path) -> None:
    assert "complete, encrypted" in run("list", made.path.parent).stdout
    without = run("verify", made.path)
    assert without.exit_code == 0 and "of the encrypted files" in without.stdout
    within = run("verify", made.path, "--identity", keys / "mine.key")
    assert within.exit_code == 0 and "what is in the encrypted files" in within.stdout
    wrong = run("verify", made.path, "--identity", keys / "other.key")
    assert wrong.exit_code == 1 and "encrypted for another key" in wrong.stdout


@pytest.mark.parametrize("what", ["cut", "flipped", "missing", "swapped", "plain"])
def test_damage_is_found(made: backups.Backup, keys: Path, tmp_path: Path, what: str) -> None:
    path = made.path / "shard-0" / "000001.sst.age"
    hidden = path.read_bytes()
    if what == "cut":
        path.write_bytes(hidden[:-20])
    elif what == "flipped":
        path.write_bytes(hidden[:-20] + bytes([hidden[-20] ^ 1]) + hidden[-19:])
    elif what == "missing":
        path.unlink()
    elif what == "swapped":
        shutil.copy(made.path / "shard-0" / "000002.sst.age", path)
    else:
        path.write_bytes(FILES["000001.sst"])
    for options in ((), ("--identity", keys / "mine.key")):
        found = run("verify", made.path, *options)
        assert found.exit_code == 1 and "000001.sst.age" in found.stdout, options
    refused = run("restore", made.path, "--data", tmp_path / "data", "--identity", keys / "mine.key")
    assert refused.exit_code == 1 and "nothing was restored" in refused.stderr
    assert not (tmp_path / "data").exists()


def test_what_is_in_a_file_is_compared_with_the_manifest(made: backups.Backup, keys: Path) -> None:
    """A file that is whole by itself, and was put in another one's place with its facts."""
    identities = sealing.identities_of(keys / "mine.key")
    document = json.loads((made.path / "BACKUP.json").read_text())
    del document["xxh3"]
    files = {file["name"]: file for file in document["shards"][0]["files"]}
    files["000001.sst"]["sealed"] = files["000002.sst"]["sealed"]
    shutil.copy(made.path / "shard-0" / "000002.sst.age", made.path / "shard-0" / "000001.sst.age")
    backups.write_manifest(made.path, document)
    spoiled = backups.load(made.path)
    (problem,) = checking.check_files(spoiled, lambda count: None, identities)
    assert problem.endswith("000001.sst.age: what is in it is not what was backed up")


def test_a_restore_reads_it_and_leaves_nothing_readable_beside_the_volumes(
    made: backups.Backup, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "verify_deeply", lambda backup: [])
    identities, node, data = sealing.identities_of(keys / "mine.key"), FakeNode(), tmp_path / "data"
    plan = restoring.plan_of(made, data, None)
    with plan.data:
        restoring.occupy(plan)
        with restoring.readable(plan, identities) as readable:
            plain = readable.backup
            assert plain.path == data / restoring.UNSEALED and not plain.encrypted
            assert plain.backup_id == made.backup_id, "ids of the new cluster are the same"
            content = {file.name: (plain.path / "shard-1" / file.name).read_bytes() for file in plain.shards[1].files}
            assert content == FILES
            restoring.carry_out(readable, lambda count: None, node.run)
    assert not (data / restoring.UNSEALED).exists()
    assert starts(data, plan.layout)
    assert node.calls[4]["--backup"] == str(data / restoring.UNSEALED / "shard-1")


def test_a_restore_that_fails_leaves_nothing_readable(
    made: backups.Backup, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identities, data = sealing.identities_of(keys / "mine.key"), tmp_path / "data"

    def restore(node: FakeNode) -> None:
        plan = restoring.plan_of(made, data, None)
        with plan.data:
            restoring.occupy(plan)
            with restoring.readable(plan, identities) as readable:
                restoring.carry_out(readable, lambda count: None, node.run)

    # What only raft-node finds, is found before anything is made.
    monkeypatch.setattr(restoring, "verify_deeply", lambda backup: ["a block"])
    with pytest.raises(RefusedError, match="nothing was restored: a block"):
        restore(FakeNode())
    assert not data.exists()
    monkeypatch.setattr(restoring, "verify_deeply", lambda backup: [])
    with pytest.raises(RefusedError, match=r"the disk is full\Z"):
        restore(FakeNode(fails_at=1))
    assert not data.exists()
    with pytest.raises(RefusedError, match="is not to be used as it is"):
        restore(FakeNode(fails_at=3))
    assert data.exists() and not (data / restoring.UNSEALED).exists()
    # A run that was ended by force leaves it; the next one goes on all the same.
    (data / restoring.UNSEALED).mkdir()
    (data / restoring.UNSEALED / "left").write_text("x")
    restore(FakeNode())
    assert not (data / restoring.UNSEALED).exists()


def test_options_that_do_not_fit_are_refused(
    made: backups.Backup, facade: FakeFacade, keys: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    needs = run("restore", made.path, "--data", data)
    assert needs.exit_code == 2 and "--identity" in needs.stderr and not data.exists()
    wrong = run("restore", made.path, "--data", data, "--identity", keys / "other.key")
    assert wrong.exit_code == 1 and "another key" in wrong.stderr and not data.exists()
    secret = run("create", tmp_path / "more", "--encrypt-to", keys / "mine.key")
    assert secret.exit_code == 2 and "holds a secret key" in secret.stderr and not (tmp_path / "more").exists()
    absent = run("create", tmp_path / "more", "--encrypt-to", tmp_path / "absent")
    assert absent.exit_code == 2 and "No such file" in absent.stderr
    plain = json.loads(run("create", tmp_path / "plain", "--json").stdout)
    needless = run("verify", plain["path"], "--identity", keys / "mine.key")
    assert needless.exit_code == 2 and "is not encrypted" in needless.stderr
    again = run("keygen", keys / "mine.key")
    assert again.exit_code == 2 and "File exists" in again.stderr


def test_a_facade_that_sends_files_as_encrypted_is_not_believed(facade: FakeFacade, tmp_path: Path) -> None:
    sealed = [
        {"name": name, "size_bytes": len(content), "xxh3": "0", "sealed": {"size_bytes": 1, "xxh3": "0"}}
        for name, content in FILES.items()
    ]
    facade.script = {1: [shard_archive(1, files=sealed)] * 3}
    result = run("create", tmp_path / "kept")
    assert result.exit_code == 1 and "came encrypted" in result.stderr


def test_a_manifest_with_encrypted_and_plain_files_is_damaged(made: backups.Backup) -> None:
    document = json.loads((made.path / "BACKUP.json").read_text())
    del document["xxh3"], document["shards"][0]["files"][0]["sealed"]
    backups.write_manifest(made.path, document)
    with pytest.raises(backups.BackupError, match="is damaged"):
        backups.load(made.path)
