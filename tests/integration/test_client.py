"""The Python client on real processes: the examples of its documents, and writes that happen once through kills."""

from __future__ import annotations

import doctest
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bench.cluster import Cluster

from dougdb import DougClient, Increment, OutcomeUnknownError, Put

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

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


def test_a_scan_and_a_lock_go_on_through_kills(cluster: Cluster) -> None:
    with DougClient(url_of(cluster), deadline_s=60) as client:
        assert all(each.ok for each in client.batch(Put(f"scan/{number:05}", b"x" * 500) for number in range(9000)))
        found = []
        with client.lock("through-kills", ttl=15) as lock:
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
