"""What expires on real processes: leaders change, clocks are stepped, snapshots are installed, everything restarts.

A key has expired once the log's clock says so, and that clock only goes forward. So each answer tells of it: a put
tells what it showed, a read that found a key tells that it was before the key's deadline, and one that found none that
it was not. No two answers, the second of which was asked for after the first, may say that it went back; and every one
must agree with clocks that are wrong by five seconds at the most.

The nodes' wall clocks are stepped by a module that Python imports at their start (``sitecustomize``): the nodes know
nothing of it. It changes ``time.time_ns``, which is what nodes look at; gRPC makes deadlines of ``time.time`` and
compares them with the clock of the machine, so that one stays.
"""

from __future__ import annotations

import datetime
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from bench.cluster import STATUS_AGE_S, Cluster, paused, wait_for
from bench.http11 import HttpError
from bench.meter import scrape

pytestmark = [pytest.mark.integration, pytest.mark.safety, pytest.mark.timeout(600)]

SEED = 60_611
ROUNDS = int(os.environ.get("EXPIRY_ROUNDS", "3"))
"""The more, the more of a soak test."""
PUTS_MISSED = 100
"""Of 20 KB each: much more than what is kept of a log, so that whoever missed them needs a snapshot."""
STEP_MS = 5_000
WAIT_S = 120.0
WRITERS, READERS = 3, 5
TTLS_MS = (250, 700, 1_500, 4_000, 9_000)
FILLER_BYTES = 20_000
PREFIX = "expiry/"
NODES = 3
KIB = 1 << 10
CLOCK = """
import os, time

_path = os.path.join(os.environ.get("TEST_CLOCKS", ""), os.environ.get("DOUGDB_NODE_ID", ""))
_real = time.time_ns


def _now_ns():
    try:
        with open(_path) as file:
            return _real() + int(file.read() or "0") * 1_000_000
    except OSError:
        return _real()


if "DOUGDB_NODE_ID" in os.environ:
    time.time_ns = _now_ns
"""


@dataclass(frozen=True, slots=True)
class Told:
    """What one answer tells of the log's clock, in milliseconds.

    Attributes:
        called: When it was asked for, by this machine's clock.
        returned: When it came.
        least: The clock showed at least this at some moment between the two.
        most: It showed at most this at that moment.
        what: What was asked for.
    """

    called: float
    returned: float
    least: float = float("-inf")
    most: float = float("inf")
    what: str = ""


def contradictions(history: list[Told]) -> list[str]:
    """Pairs of answers that no clock explains that only goes forward, and answers that no clock this wrong explains."""
    found = [
        f"{each} is not explained by clocks that are wrong by {STEP_MS} ms"
        for each in history
        if each.most < each.called - STEP_MS or each.least > each.returned + STEP_MS
    ]
    returned = sorted((each for each in history if each.least > float("-inf")), key=lambda each: each.returned)
    place, latest = 0, None
    for each in sorted(history, key=lambda each: each.called):
        while place < len(returned) and returned[place].returned < each.called:
            if latest is None or returned[place].least > latest.least:
                latest = returned[place]
            place += 1
        if latest is not None and each.most < latest.least:
            found.append(f"after {latest} came {each}")
    return found


@dataclass
class Keys:
    """The keys that were put, and everything that was told."""

    deadlines: dict[str, float] = field(default_factory=dict)
    history: list[Told] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def recent(self, count: int) -> list[str]:
        """The newest of them."""
        with self.lock:
            return list(self.deadlines)[-count:]


def now_ms() -> float:
    return time.time_ns() / 1e6


def milliseconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp() * 1000


@pytest.fixture(scope="module")
def clocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clocks")
    (folder / "sitecustomize.py").write_text(CLOCK)
    return folder


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster], clocks: Path) -> Cluster:
    return new_cluster(
        shards=1,
        nodes=NODES,
        environment={
            "PYTHONPATH": str(clocks),
            "TEST_CLOCKS": str(clocks),
            # Reads go to followers as soon as a few wait, and who falls behind soon needs a snapshot.
            "DOUGDB_SPREAD_READS_ITEMS": "1",
            "DOUGDB_WAL_SEGMENT_BYTES": str(64 * KIB),
            "DOUGDB_MEMTABLE_BYTES": str(256 * KIB),
            "DOUGDB_LOG_KEEP_BYTES": str(256 * KIB),
            "DOUGDB_LOG_BYTES_MAX": str(512 * KIB),
        },
    ).start(timeout_s=120)


def put(cluster: Cluster, keys: Keys, key: str, ttl_ms: int, value: bytes) -> None:
    called = now_ms()
    try:
        answer = cluster.request("PUT", f"/v1/kv/{key}?ttl={ttl_ms}ms", value)
    except HttpError:
        return
    if answer.status != 200:
        return
    deadline = milliseconds(answer.headers["doug-expires-at"])
    # What is told is cut to milliseconds.
    told = Told(called, now_ms(), deadline - ttl_ms, deadline - ttl_ms + 1, f"put {key}")
    with keys.lock:
        keys.history.append(told)
        keys.deadlines[key] = deadline


def get(cluster: Cluster, keys: Keys, key: str) -> None:
    deadline, called = keys.deadlines[key], now_ms()
    try:
        answer = cluster.request("GET", f"/v1/kv/{key}")
    except HttpError:
        return
    by = f"get {key} of {deadline} at {answer.headers.get('doug-served-by')}: {answer.status}"
    if answer.status == 200:
        keys.history.append(Told(called, now_ms(), most=deadline + 1, what=by))
    elif answer.status == 404:
        keys.history.append(Told(called, now_ms(), least=deadline, what=by))


def scan(cluster: Cluster, keys: Keys, asked: list[str]) -> None:
    """A page of the newest keys: all of it is of one moment."""
    called = now_ms()
    try:
        answer = cluster.request("GET", f"/v1/kv?start={min(asked)}&end={max(asked)}0&keys_only=true")
    except HttpError:
        return
    if answer.status != 200:
        return
    document = answer.json()
    seen = {item["key"] for item in document["items"]}
    last = max(asked) if document["complete"] else max(seen)
    for key in asked:
        if key > last:
            continue
        deadline = keys.deadlines[key]
        if key in seen:
            keys.history.append(Told(called, now_ms(), most=deadline + 1, what=f"scan shows {key} of {deadline}"))
        else:
            keys.history.append(Told(called, now_ms(), least=deadline, what=f"scan lacks {key} of {deadline}"))


def installed(cluster: Cluster) -> float:
    """How many snapshots were installed, as far as the nodes that run now know."""
    total = 0.0
    for view in cluster.shard_views("0"):
        try:
            found = scrape(view.admin_port).get("dougdb_snapshot_transfers_total", {})
        except (HttpError, OSError):
            continue
        total += sum(value for labels, value in found.items() if "installed" in labels)
    return total


def all_followers(cluster: Cluster) -> list[str] | None:
    """The followers, once none is missing."""
    found = [view.id for view in cluster.shard_views("0") if view.role == "follower"]
    return found if len(found) == NODES - 1 else None


def disturb(cluster: Cluster, clocks: Path, keys: Keys, over: threading.Event) -> None:
    """Steps clocks and kills leaders; then a follower stands still for so long that it needs a snapshot."""
    random = Random(SEED)
    for number in range(ROUNDS):
        for name in cluster.node_ids:
            # At first back and then forth at the least; a clock counts from when a node becomes the leader.
            step = random.choice((-STEP_MS, 0, STEP_MS)) if number > 1 else (-STEP_MS, STEP_MS)[number]
            (clocks / name).write_text(str(step))
        cluster.kill(cluster.await_leader("0").id)
        over.wait(STATUS_AGE_S)
        back = wait_for(lambda: over.is_set() or all_followers(cluster), WAIT_S, "the killed one to be back")
        if not isinstance(back, list):
            return
        before, name = installed(cluster), random.choice(back)
        with paused([cluster.member(name)]):
            enough = len(keys.deadlines) + PUTS_MISSED
            wait_for(lambda enough=enough: over.is_set() or len(keys.deadlines) > enough, WAIT_S, "writes to go on")  # type: ignore[misc]
        wait_for(lambda before=before: over.is_set() or installed(cluster) > before, WAIT_S, "a snapshot")  # type: ignore[misc]


def run(cluster: Cluster, clocks: Path, keys: Keys, numbers: Iterator[int]) -> None:
    """Writes and reads for a while, with trouble."""
    over = threading.Event()
    lock = threading.Lock()
    failed: list[BaseException] = []

    def write(seed: int) -> None:
        random = Random(seed)
        while not over.is_set():
            with lock:
                number = next(numbers)
            put(cluster, keys, f"{PREFIX}{number:06}", random.choice(TTLS_MS), random.randbytes(FILLER_BYTES))

    def read(seed: int) -> None:
        random = Random(seed)
        while not over.is_set():
            recent = keys.recent(150)
            if not recent:
                over.wait(0.05)
            elif random.random() < 0.1:
                scan(cluster, keys, recent)
            else:
                get(cluster, keys, random.choice(recent))

    def guarded(act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)
            over.set()
            raise

    tasks: list[Callable[[], None]] = [lambda: disturb(cluster, clocks, keys, over)]
    tasks += [lambda seed=seed: write(seed) for seed in range(WRITERS)]  # type: ignore[misc]
    tasks += [lambda seed=seed: read(100 + seed) for seed in range(READERS)]  # type: ignore[misc]
    threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    threads[0].join()
    over.set()
    for thread in threads:
        thread.join()
    assert not failed, failed


def test_the_checker_finds_what_no_clock_explains() -> None:
    shown = Told(0, 1, most=10)
    gone = Told(2, 3, least=20)
    assert contradictions([shown, gone]) == []
    assert len(contradictions([Told(4, 5, most=19), gone])) == 1
    assert contradictions([Told(2, 5, most=19), gone]) == [], "they were asked for at the same time"
    assert len(contradictions([Told(9_000, 9_001, most=3_999), Told(0, 1, least=5_002)])) == 3


@pytest.mark.slow
def test_no_read_sees_what_has_expired_nor_misses_what_has_not(cluster: Cluster, clocks: Path) -> None:
    keys, numbers = Keys(), iter(range(1_000_000))
    run(cluster, clocks, keys, numbers)
    cluster.kill_all()
    for name in cluster.node_ids:
        (clocks / name).write_text(str(-STEP_MS))
    cluster.start(timeout_s=120)
    for key in keys.recent(100):
        get(cluster, keys, key)
    # All that is there goes at its time, and from every disk.
    last = max(keys.deadlines.values())
    wait_for(lambda: now_ms() - STEP_MS > last, WAIT_S, "everything to expire")
    cluster.await_leader("0")
    answer = cluster.request("GET", f"/v1/kv?prefix={PREFIX}&count_only=true")
    assert answer.json()["count"] == 0, answer
    assert contradictions(keys.history) == []
    seen = sum(told.most < float("inf") and not told.what.startswith("put") for told in keys.history)
    missed = sum(told.least > float("-inf") and not told.what.startswith("put") for told in keys.history)
    print(json.dumps({"puts": len(keys.deadlines), "shown": seen, "not shown": missed}))
    assert min(len(keys.deadlines), seen, missed) > 20
