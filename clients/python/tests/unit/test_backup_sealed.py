"""``dougctl backup`` with encryption: what is on disk, who can read it, and a restore that leaves nothing readable."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def restore(made: backups.Backup, data: Path, keys: Path, run: restoring.RunNode) -> restoring.Plan:
    plan = restoring.plan_of(made, data, None)
    with plan.data:
        restoring.occupy(plan)
        restoring.carry_out(plan, lambda count: None, run, sealing.identities_of(keys / "mine.key"))
    return plan


def in_plain(folder: Path) -> list[Path]:
    """The files below a folder that hold anything of what was backed up."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(content[:50] in path.read_bytes() for content in FILES.values())]


def test_a_restore_sends_it_to_the_nodes_and_writes_nothing_of_it(
    made: backups.Backup, keys: Path, tmp_path: Path
) -> None:
    """Whenever the command is killed, in plain there is what raft-node has put into the new volumes, and no more."""
    node, data = FakeNode(), tmp_path / "data"

    def watched(arguments: Sequence[str], feed: restoring.Feed | None) -> subprocess.CompletedProcess[str]:
        class Target(io.BytesIO):
            def write(self, piece: Any, /) -> int:
                assert not in_plain(tmp_path)
                return super().write(piece)

        assert feed is not None
        feed(Target())
        return node.run(arguments, feed)

    plan = restore(made, data, keys, watched)
    assert starts(data, plan.layout)
    assert not in_plain(tmp_path)
    for number, fed in enumerate(node.fed):
        head, _, content = fed.partition(b"\n")
        told = json.loads(head)
        shard = number // plan.layout.nodes
        assert (told["stream"], told["shard"]) == (1, shard)
        assert content == b"".join(FILES[file.name] for file in made.shards[shard].files)
        manifest = told["manifest"]
        assert manifest["backup_id"] == made.backup_id, "ids of the new cluster are the same"
        assert manifest["format"] == 1
        assert "encryption" not in manifest and "sealed" not in head.decode()


def test_a_restore_that_fails_leaves_nothing_or_goes_on(made: backups.Backup, keys: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    # What only raft-node finds, it finds when it has the bytes; what was made by then is gone again.
    for fails_at in (1, 3, 5):
        with pytest.raises(RefusedError, match="nothing was restored: a block"):
            restore(made, data, keys, FakeNode(fails_at, code=1, reason="a block").run)
        assert not data.exists()
    with pytest.raises(RefusedError, match="is not to be used as it is"):
        restore(made, data, keys, FakeNode(fails_at=3).run)
    # Nodes that another run has made are not this one's to remove.
    with pytest.raises(RefusedError, match="is not to be used as it is"):
        restore(made, data, keys, FakeNode(fails_at=4, code=1, reason="a block").run)
    assert (data / "shard-0-0").exists()
    node = FakeNode()
    assert starts(data, restore(made, data, keys, node.run).layout)
    assert len(node.calls) == 6


def test_damage_that_comes_up_while_it_is_sent_is_told(made: backups.Backup, keys: Path, tmp_path: Path) -> None:
    (made.path / "shard-1" / "000002.sst.age").write_bytes(b"age-encryption.org/v1\n")
    with pytest.raises(RefusedError, match="nothing was restored: its beginning is damaged"):
        restore(made, tmp_path / "data", keys, FakeNode().run)
    assert not (tmp_path / "data").exists()


def test_raft_node_reads_what_is_sent(made: backups.Backup, keys: Path, tmp_path: Path) -> None:
    """These files are no checkpoint; that they came whole is what raft-node must have seen before it says so."""
    with pytest.raises(RefusedError, match=r"nothing was restored: .*CHECKPOINT"):
        restore(made, tmp_path / "data", keys, restoring.run_program)
    assert not in_plain(tmp_path)
    assert not (tmp_path / "data").exists()


def test_one_shard_is_sent_to_stdout(made: backups.Backup, facade: FakeFacade, keys: Path, tmp_path: Path) -> None:
    sent = run("send", made.path, "--shard", 1, "--identity", keys / "mine.key")
    assert sent.exit_code == 0
    head, _, content = sent.stdout_bytes.partition(b"\n")
    assert json.loads(head)["shard"] == 1
    assert content == b"".join(FILES[file.name] for file in made.shards[1].files)
    plain = json.loads(run("create", tmp_path / "plain", "--json").stdout)["path"]
    again = run("send", plain, "--shard", 1)
    assert again.stdout_bytes.partition(b"\n")[2] == content
    without = run("send", made.path, "--shard", 1)
    assert without.exit_code == 2 and "--identity" in without.stderr and not without.stdout_bytes
    absent = run("send", made.path, "--shard", 7, "--identity", keys / "mine.key")
    assert absent.exit_code == 1 and "has no shard 7" in absent.stderr and not absent.stdout_bytes
    wrong = run("send", made.path, "--shard", 1, "--identity", keys / "other.key")
    assert wrong.exit_code == 1 and "another key" in wrong.stderr
    (Path(plain) / "shard-1" / "000001.sst").write_bytes(b"u" * 3000)
    damaged = run("send", plain, "--shard", 1)
    assert damaged.exit_code == 1 and "checksum" in damaged.stderr


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
