"""A cluster that is being written to is backed up, and a new one made of it holds all that was acknowledged before.

Only what an operator has is used: ``dougctl backup`` and ``dougctl dev``.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.cluster import Cluster, dougctl, wait_for
from bench.http11 import Client, HttpError, Response

from raft_node.app.restoring import backup as node_side
from raft_node.storage.files import OsFileSystem

pytestmark = [pytest.mark.integration, pytest.mark.safety, pytest.mark.timeout(600)]

SHARDS, NODES = 2, 3
KEYS = 3000
LIVE = 40
WRITERS = 16
WAIT_S = 60.0


def dougctl_run(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [dougctl(), "--url", cluster.url, *arguments],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    print(f"{' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def value_of(number: int) -> bytes:
    return b"value %d " % number * (1 + number % 40)


def load(cluster: Cluster) -> None:
    async def put(numbers: Any) -> None:
        async with Client("127.0.0.1", cluster.port) as client:
            for number in numbers:
                ends = time.monotonic() + WAIT_S
                while (await client.request("PUT", f"/v1/kv/key-{number}", value_of(number))).status != 200:
                    assert time.monotonic() < ends, f"key {number} is refused for too long"
                    await asyncio.sleep(0.1)

    async def run() -> None:
        numbers = iter(range(KEYS))
        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(put(numbers))

    asyncio.run(run())


class Writer:
    """Counts a few keys up, one after the other, and knows what was acknowledged and what was ever sent."""

    def __init__(self, cluster: Cluster) -> None:
        self.acknowledged = [0] * LIVE
        self.sent = [0] * LIVE
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        turn = 0
        while not self._stop.is_set():
            number, count = turn % LIVE, turn // LIVE + 1
            self.sent[number] = count
            if self._cluster.request("PUT", f"/v1/kv/live-{number}", b"%d" % count).status == 200:
                self.acknowledged[number] = count
            turn += 1
            time.sleep(0.005)


class Saved:
    """A backup, and what has to be in it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        load(cluster)
        with Writer(cluster) as writer:
            wait_for(lambda: min(writer.acknowledged) > 0, WAIT_S, "the writer to have been through all keys")
            self.at_least = list(writer.acknowledged)
            self.terms = cluster.terms()
            self.created = dougctl_run(cluster, "backup", "create", str(folder), "--json")
            wait_for(lambda: writer.acknowledged[0] > self.at_least[0], WAIT_S, "writes to go on")
        self.at_most = list(writer.sent)
        self.cluster = cluster
        self.folder = folder
        self.path = Path(json.loads(self.created.stdout)["path"])


@pytest.fixture(scope="module")
def saved(new_cluster: Callable[..., Cluster], tmp_path_factory: pytest.TempPathFactory) -> Saved:
    cluster = new_cluster(shards=SHARDS, nodes=NODES).start()
    return Saved(cluster, tmp_path_factory.mktemp("backups") / "kept")


def serves(cluster: Cluster) -> bool:
    try:
        return all(cluster.request("PUT", f"/v1/kv/afterwards-{n}", b"v").status == 200 for n in range(8))
    except HttpError:
        return False


def answered(cluster: Cluster, method: str, target: str, headers: dict[str, str] | None = None) -> Response:
    """The first answer that is not that nobody can serve the request just now."""

    def ask() -> Response | None:
        try:
            answer = cluster.request(method, target, b"", headers or {})
        except HttpError:
            return None
        return answer if answer.status < 500 else None

    return wait_for(ask, WAIT_S, f"an answer to {method} {target}")


def damaged_copy(saved: Saved, folder: Path) -> Path:
    copy = folder / saved.path.name
    shutil.copytree(saved.path, copy)
    table = sorted((copy / "shard-1").glob("*.sst"))[0]
    content = bytearray(table.read_bytes())
    content[len(content) // 3] ^= 16
    table.write_bytes(content)
    return copy


def test_what_was_made_is_listed_and_whole(saved: Saved) -> None:
    assert saved.created.returncode == 0
    listed = json.loads(dougctl_run(saved.cluster, "backup", "list", str(saved.folder), "--json").stdout)
    assert [(entry["path"], entry["complete"], len(entry["shards"])) for entry in listed] == [
        (str(saved.path), True, SHARDS)
    ]
    verified = dougctl_run(saved.cluster, "backup", "verify", str(saved.path))
    assert verified.returncode == 0 and "sizes, checksums and blocks" in verified.stdout
    # Both packages read the same manifest.
    known = node_side.load_backup(OsFileSystem(), str(saved.path))
    assert (known.backup_id, [cut.folder for cut in known.shards]) == (saved.path.name, ["shard-0", "shard-1"])
    assert all(len(cut.voters) == NODES for cut in known.shards)


def test_a_follower_sent_it(saved: Saved) -> None:
    document = json.loads((saved.path / "BACKUP.json").read_text())
    leaders = {view.id for view in saved.cluster.views() if view.role == "leader"}
    leads = leaders & {shard["node"] for shard in document["shards"]}
    assert not leads or saved.cluster.terms() != saved.terms, "one that follows is asked first"


@pytest.mark.slow
def test_a_new_cluster_made_of_it_has_all_that_was_acknowledged_before(
    saved: Saved, new_cluster: Callable[..., Cluster]
) -> None:
    made = new_cluster(shards=SHARDS, nodes=NODES)
    restored = dougctl_run(saved.cluster, "backup", "restore", str(saved.path), "--data", str(made.data), "--json")
    assert restored.returncode == 0
    again = dougctl_run(saved.cluster, "backup", "restore", str(saved.path), "--data", str(made.data))
    assert again.returncode == 1 and "not empty" in again.stderr
    made.start()
    wait_for(lambda: serves(made), WAIT_S, "the new cluster to serve")

    async def read(numbers: Iterator[int]) -> None:
        async with Client("127.0.0.1", made.port) as client:
            for number in numbers:
                answer = await client.request("GET", f"/v1/kv/key-{number}")
                assert (answer.status, answer.body) == (200, value_of(number)), number

    async def compare() -> None:
        numbers = iter(range(KEYS))
        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(read(numbers))
        async with Client("127.0.0.1", made.port) as client:
            for number in range(LIVE):
                answer = await client.request("GET", f"/v1/kv/live-{number}")
                assert saved.at_least[number] <= int(answer.body) <= saved.at_most[number]

    asyncio.run(compare())
    made.await_all_equal()
    new_id = json.loads(restored.stdout)["cluster_id"]
    old_id = json.loads((saved.path / "BACKUP.json").read_text())["cluster_id"]
    assert old_id != new_id
    identity = (made.data / "shard-1-2" / "data" / "IDENTITY").read_text()
    assert new_id in identity and old_id not in identity
    # What clients know of the old cluster means nothing here: entries and revisions count anew.
    token = answered(saved.cluster, "GET", "/v1/kv/key-0").headers["doug-session"]
    refused = answered(made, "GET", "/v1/kv/key-0?consistency=session", {"Doug-Session": token})
    assert (refused.status, refused.json()["code"]) == (409, "foreign_session")
    place = answered(saved.cluster, "POST", "/v1/watch:progress", {"Doug-Client": "test"}).json()["id"]
    watch = answered(made, "GET", f"/v1/watch?from={place}")
    assert (watch.status, watch.json()["code"]) == (409, "foreign_watch_id")
    # The state can be backed up again, from the new cluster, under its own id.
    second = dougctl_run(made, "backup", "create", str(saved.folder), "--json")
    assert json.loads(second.stdout)["cluster_id"] == new_id


def tables_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.sst")}


@pytest.mark.slow
def test_an_encrypted_one_is_restored_for_all_nodes_or_sent_to_one(saved: Saved, tmp_path: Path) -> None:
    key, public, data = tmp_path / "backup.key", tmp_path / "backup.pub", tmp_path / "new"
    public.write_text(dougctl_run(saved.cluster, "backup", "keygen", str(key)).stdout)
    created = dougctl_run(
        saved.cluster, "backup", "create", str(tmp_path / "kept"), "--encrypt-to", str(public), "--json"
    )
    path = json.loads(created.stdout)["path"]
    restored = dougctl_run(
        saved.cluster, "backup", "restore", path, "--data", str(data), "--identity", str(key), "--json"
    )
    assert restored.returncode == 0
    made = [tables_of(data / f"shard-1-{number}" / "data") for number in range(NODES)]
    assert made[0] and made[0] == made[1] == made[2]
    verified = dougctl_run(saved.cluster, "sst", "verify", str(data / "shard-1-0" / "data"))
    assert verified.returncode == 0
    # A node of its own gets the same through a pipe, and has no key.
    volumes = ["--wal-dir", str(tmp_path / "alone" / "wal"), "--data-dir", str(tmp_path / "alone" / "data")]
    words = ["--node-id", "a", "--members", "a,b,c", "--restore-id", "one", "--backup", "-"]
    with subprocess.Popen(
        [dougctl(), "backup", "send", path, "--shard", "1", "--identity", str(key)],
        env=saved.cluster.environment,
        stdout=subprocess.PIPE,
    ) as sender:
        alone = subprocess.run(
            [sys.executable, "-m", "raft_node", "restore", *volumes, *words],
            stdin=sender.stdout,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert sender.wait(120) == 0
    assert alone.returncode == 0, alone.stderr
    assert tables_of(tmp_path / "alone" / "data") == made[0]


def test_a_damaged_backup_is_named_and_refused(saved: Saved, tmp_path: Path) -> None:
    copy = damaged_copy(saved, tmp_path)
    verified = dougctl_run(saved.cluster, "backup", "verify", str(copy))
    assert verified.returncode == 1 and "checksum does not fit" in verified.stdout
    target = tmp_path / "target"
    refused = dougctl_run(saved.cluster, "backup", "restore", str(copy), "--data", str(target))
    assert refused.returncode == 1 and "damaged" in refused.stderr
    assert not list(target.glob("shard-*")), "it was looked through before anything was made"
