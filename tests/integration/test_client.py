"""The Python client on real processes: the examples of its documents, and writes that happen once through kills."""

from __future__ import annotations

import contextlib
import doctest
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bench.cluster import Cluster, wait_for

from dougdb import DougClient, Increment, OutcomeUnknownError, Put

pytestmark = [pytest.mark.integration, pytest.mark.safety, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
CLIENTS, EACH = 8, 25


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(shards=2, nodes=3).start()


def url_of(cluster: Cluster) -> str:
    return f"http://127.0.0.1:{cluster.port}"


@pytest.mark.parametrize("document", ["docs/client.md", "docs/locks.md"])
def test_every_example_is_true(cluster: Cluster, document: str) -> None:
    url = url_of(cluster)
    with DougClient(url) as client:
        failed, tried = doctest.testfile(
            str(ROOT / document),
            module_relative=False,
            globs={"URL": url, "client": client},
            optionflags=doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL,
        )
    assert tried > 5
    assert failed == 0


@pytest.mark.slow
def test_writes_happen_once_through_kills_of_facade_and_leaders(cluster: Cluster) -> None:
    """The client alone repeats: nobody around it does, and no call fails."""
    done = threading.Event()

    def count(number: int) -> int:
        replays = 0
        with DougClient(url_of(cluster), timeout_s=5, deadline_s=60) as client:
            for step in range(EACH):
                replays += client.increment("once/counter").receipt.replayed
                results = client.batch([Increment("once/batched"), Put(f"once/{number}/{step}", b"%d" % step)])
                assert all(each.ok for each in results), results
                # A condition that holds once only: a repetition that was not known would fail.
                client.put(f"once/new/{number}/{step}", b"", if_absent=True)
                done.wait(0.02)
        return replays

    def disturb() -> None:
        with DougClient(url_of(cluster), deadline_s=60) as client:
            for _ in range(2):
                # A facade that was killed is asked for leaders once it is back.
                client.limits()
                for shard in cluster.shard_ids():
                    cluster.kill(cluster.await_leader(shard).id)
                if done.wait(0.5):
                    return
                cluster.kill("facade")
                if done.wait(0.5):
                    return

    disturber = threading.Thread(target=disturb)
    disturber.start()
    with ThreadPoolExecutor(CLIENTS) as clients:
        replays = sum(clients.map(count, range(CLIENTS)))
    done.set()
    disturber.join()
    with DougClient(url_of(cluster), deadline_s=60) as client:
        assert client.get("once/counter").data == b"%d" % (CLIENTS * EACH)
        assert client.get("once/batched").data == b"%d" % (CLIENTS * EACH)
        assert client.count(prefix="once/new/") == CLIENTS * EACH
    print(f"{replays} increments were answered by what an earlier attempt had done")


@pytest.mark.slow
def test_a_scan_and_a_lock_go_on_through_kills(cluster: Cluster) -> None:
    with DougClient(url_of(cluster), deadline_s=60) as client:
        assert all(each.ok for each in client.batch(Put(f"scan/{number:05}", b"x" * 500) for number in range(9000)))
        found: list[str] = []
        with client.lock("through-kills", ttl=60) as lock:
            for entry in client.scan(prefix="scan/"):
                if len(found) == 10:
                    cluster.kill("facade")
                found.append(entry.text)
            token = lock.token
            assert lock.held
        assert found == [f"scan/{number:05}" for number in range(9000)]
        with client.lock("through-kills") as later:
            assert later.token > token
        assert client.delete_range(prefix="scan/").complete


def test_careless_clients_are_told_that_nobody_knows(cluster: Cluster) -> None:
    """Without keys nothing is repeated in doubt: the count may be short of the calls, and never beyond them."""
    unknown = 0
    timer = threading.Timer(0.3, lambda: cluster.kill("facade"))
    timer.start()
    with DougClient(url_of(cluster), exactly_once=False, deadline_s=60) as client:
        for _ in range(150):
            try:
                client.increment("careless")
            except OutcomeUnknownError:
                unknown += 1
        timer.join()
        assert 150 - unknown <= int(client.get("careless").data) <= 150


def dougctl(cluster: Cluster, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "dougdb", *arguments],
        env={**os.environ, "DOUGDB_URL": url_of(cluster)},
        capture_output=True,
        timeout=120,
        check=False,
        **options,
    )


@pytest.mark.slow
def test_an_export_is_imported_again(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "all.ndjson"
    keys = {b"dump/%d" % number: bytes([number % 256]) * number for number in range(1500)}
    keys[b"dump/\xff\x01"] = "\u2028\x85".encode()
    with DougClient(url_of(cluster), deadline_s=60) as client:
        assert all(each.ok for each in client.batch(Put(key, value, "a/b", ttl="1h") for key, value in keys.items()))
        exported = dougctl(cluster, "export", str(path), "--prefix", "dump/", "--verify", "--json")
        assert exported.returncode == 0, exported.stderr
        assert json.loads(exported.stdout)["verified"] == len(keys)
        assert client.delete_range(prefix="dump/").keys == len(keys)
        path.write_bytes(path.read_bytes()[:-5])
        cut_off = dougctl(cluster, "import", str(path), "--verify")
        assert (cut_off.returncode, b"cut off" in cut_off.stderr) == (1, True)
        resumed = dougctl(cluster, "export", str(path), "--prefix", "dump/", "--resume")
        assert resumed.returncode == 0, resumed.stderr
        imported = dougctl(cluster, "import", str(path), "--resume", "--verify", "--json")
        assert imported.returncode == 0, imported.stderr
        entries = list(client.scan(prefix="dump/"))
        assert {entry.key: entry.data for entry in entries} == keys
        assert all(entry.content_type == "a/b" and entry.expires_at is not None for entry in entries)
        tree = dougctl(cluster, "export-tree", str(tmp_path / "tree"), "--prefix", "dump/", "--verify")
        assert tree.returncode == 0, tree.stderr
        assert (tmp_path / "tree" / "77").read_bytes() == keys[b"dump/77"]
        client.delete_range(prefix="dump/")


@pytest.mark.slow
def test_commands_under_one_lock_never_overlap(cluster: Cluster, tmp_path: Path) -> None:
    """Each of them makes a directory and removes it again: two at once would see the other's."""
    shell = (
        f"mkdir {tmp_path}/in && echo $DOUGDB_FENCING_TOKEN >> {tmp_path}/tokens && sleep 0.1 && rmdir {tmp_path}/in"
    )
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(dougctl, cluster, "lock", "sh", "--ttl", "10s", "--", "sh", "-c", shell) for _ in range(4)]
        for run in runs:
            assert run.result().returncode == 0, run.result().stderr
    tokens = [int(line) for line in (tmp_path / "tokens").read_text().split()]
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 4


def test_the_command_is_stopped_when_its_lock_is_taken_away(cluster: Cluster) -> None:
    with DougClient(url_of(cluster), deadline_s=60) as client:

        def take_away() -> None:
            while client.lock_holder("stolen") is None:
                pass
            client.delete("locks/stolen")

        thief = threading.Thread(target=take_away)
        thief.start()
        done = dougctl(cluster, "lock", "stolen", "--ttl", "2s", "--", "sleep", "100")
        thief.join()
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert b"was lost while the command ran" in done.stderr


@pytest.mark.slow
def test_a_watch_tells_every_change_once_through_kills_of_its_facade(cluster: Cluster) -> None:
    count = 300
    with (
        DougClient(url_of(cluster), deadline_s=60) as client,
        contextlib.closing(client.watch(prefix="seen/", begin="now", progress=True)) as changes,
    ):
        assert next(changes).kind == "progress"

        def write() -> None:
            with DougClient(url_of(cluster), deadline_s=60) as writer:
                for number in range(count):
                    writer.put(f"seen/{number % 7}", b"%d" % number)
                    if number == 100:
                        cluster.kill("facade")

        writer = threading.Thread(target=write)
        writer.start()
        found: list[int] = []
        revisions: dict[bytes, int] = {}
        for change in changes:
            if change.kind == "progress":
                continue
            assert int(change.revision) > revisions.get(change.key, 0)
            revisions[change.key] = int(change.revision)
            found.append(int(change.data))
            if len(found) == count:
                break
        writer.join()
        assert sorted(found) == list(range(count))
        client.put("seen/waited", b"no")
        later = threading.Timer(0.2, lambda: client.put("seen/waited", b"yes"))
        later.start()
        value = client.wait_for("seen/waited", lambda value: value is not None and value.data == b"yes", timeout_s=60)
        later.join()
        assert value is not None


@pytest.mark.slow
def test_verify_causes_the_faults_that_it_is_asked_for(cluster: Cluster) -> None:
    """The first one comes only when every node answers, so on a busy machine it may take more than one run."""

    def disturbed() -> bool:
        done = dougctl(cluster, "verify", "--duration", "8s", "--faults", "kill,pause", "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["good"] and set(found["faults"]) == {"kill", "pause"}
        return bool(sum(found["faults"].values()))

    wait_for(disturbed, 180, "a fault to be caused")
    cluster.await_all_equal()
