"""What a healthy cluster of default size costs, and what its nodes say to those who reach them directly.

The first test needs a cluster that has done nothing yet; its figures mean little when it does not run first.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from bench.cluster import Cluster, NodeView, wait_for
from bench.load import Workload, run_blocking
from bench.meter import cpu_s, family, family_pss_bytes, scrape, total
from bench.witness import Witness
from google.protobuf.message import Message

from doug.v1 import doug_pb2, doug_pb2_grpc
from doug_wire.slots import slot_of

pytestmark = pytest.mark.integration

IDLE_S = 15.0
ELECTION_S = 0.1
"""A machine that stands still for longer may have a follower campaign, rightly: it hears nobody for 150 ms."""
IDLE_SHARE = 0.25
"""Of a core on which ``spin`` takes ``SPIN_S``, as on the machine of docs/performance.md."""
SPIN_S = 0.147
IDLE_WINDOWS = 3
SETTLE_S = 4.0
ELECTIONS_MAX = 5
NUMBERS = count()


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster().start()


def key_of_shard(cluster: Cluster, shard: str) -> str:
    """A fresh key of a shard."""
    owner = cluster.slot_owners()
    return next(key for key in (f"healthy/{n}" for n in NUMBERS) if owner(slot_of(key.encode())) == shard)


# -- what it costs --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_idle_cluster_takes_little_time_and_memory(cluster: Cluster, tmp_path: Path) -> None:
    """The least of a few windows counts: other work on the machine makes the same instructions take more CPU time."""
    members = {name: cluster.member(name) for name in [*cluster.node_ids, "facade"]}
    assert len(members) == 11
    time.sleep(SETTLE_S)
    share_max = IDLE_SHARE * max(1.0, spin() / SPIN_S)
    with Witness(tmp_path) as witness:
        terms, shares = cluster.terms(), [idle_share(members)]
        while shares[-1] >= share_max and len(shares) < IDLE_WINDOWS:
            shares.append(idle_share(members))
        terms_after = cluster.terms()
    print(witness.told())
    memory = {name: family_pss_bytes(process) / 1e6 for name, process in members.items()}
    print(f"idle: PSS with children in MB { ({name: round(mb, 1) for name, mb in memory.items()}) }")
    assert terms_after == terms or witness.longest_s() > ELECTION_S, "an idle cluster elects nobody"
    assert min(shares) < share_max, (shares, share_max)
    assert max(memory[name] for name in cluster.node_ids) < 90


def spin() -> float:
    """The CPU seconds that a loop takes here, the least of some tries: a slower core spends more on the same work."""
    spent = []
    for _ in range(5):
        began = time.process_time()
        x = 0
        for i in range(2_000_000):
            x += i * i & 7
        spent.append(time.process_time() - began)
    print(f"the loop takes {min(spent):.3f} s of CPU here, {SPIN_S} s on the machine of docs/performance.md")
    return min(spent)


def idle_share(members: Mapping[str, psutil.Process]) -> float:
    """The CPU time of all members in the next window, as a share of one core."""
    before = {name: cpu_s(family(process)) for name, process in members.items()}
    begun = time.monotonic()
    time.sleep(IDLE_S)
    elapsed_s = time.monotonic() - begun
    spent = {name: cpu_s(family(process)) - before[name] for name, process in members.items()}
    share = sum(spent.values()) / elapsed_s
    print(
        f"idle: {share:.1%} of one core; { ({name: round(s, 2) for name, s in spent.items()}) } s in {elapsed_s:.1f} s"
    )
    return share


@pytest.fixture
def strace() -> str:
    """The tracer; the test that needs it is skipped, with the reason, where it may not trace."""
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed")
    sleeper = subprocess.Popen(["sleep", "10"])
    try:
        trial = subprocess.Popen([path, "-p", str(sleeper.pid)], stderr=subprocess.PIPE, text=True)
        assert trial.stderr is not None
        with trial.stderr:
            first = trial.stderr.readline()
        trial.terminate()
        trial.wait()
    finally:
        sleeper.kill()
        sleeper.wait()
    if "attached" not in first:
        pytest.skip(f"strace may not trace here: {first.strip()}")
    return path


def put_in_the_end(cluster: Cluster, key: str) -> None:
    """Puts a key; a slow machine may have a put refused while nobody leads, and then it is sent again."""
    wait_for(lambda: cluster.request("PUT", f"/v1/kv/{key}", b"x" * 100).status == 200, 60, f"{key} to be put")


def test_fifty_puts_are_on_three_disks_each(cluster: Cluster, strace: str, tmp_path: Path) -> None:
    shard = cluster.shard_ids()[0]
    nodes = [view.id for view in cluster.shard_views(shard)]
    summary = tmp_path / "strace.txt"
    command = [strace, "-f", "-c", "-e", "trace=fdatasync,fsync", "-o", str(summary)]
    for node in nodes:
        command += ["-p", str(cluster.member(node).pid)]
    errors = tmp_path / "strace.err"
    with errors.open("wb") as file:
        tracer = subprocess.Popen(command, stderr=file, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: errors.read_text().count("attached") >= len(nodes), 60, "strace to attach to every node")
        keys = [key_of_shard(cluster, shard) for _ in range(50)]
        for key in keys:
            put_in_the_end(cluster, key)
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(timeout=60)
    text = summary.read_text()
    # The columns: share of time, seconds, us per call, calls, errors (may be empty), name.
    rows = [line.split() for line in text.splitlines() if line.endswith("sync")]
    calls = {row[-1]: int(row[3]) for row in rows}
    print(f"50 puts: {calls}")
    assert sum(calls.values()) >= 150, text


def test_fifty_puts_are_synced_by_the_nodes_own_count(cluster: Cluster) -> None:
    """The same without a tracer, for machines that allow none: what the nodes say that they synced."""
    shard = cluster.shard_ids()[0]
    ports = [view.admin_port for view in cluster.shard_views(shard)]

    def syncs() -> float:
        return sum(total(scrape(port), "dougdb_wal_fsyncs_total") for port in ports)

    keys, before = [key_of_shard(cluster, shard) for _ in range(50)], syncs()
    for key in keys:
        put_in_the_end(cluster, key)
    counted = syncs() - before
    print(f"50 puts: {counted:.0f} syncs by the nodes' own count")
    assert counted >= 150


def test_batching_needs_less_than_one_message_a_put(cluster: Cluster, tmp_path: Path) -> None:
    ports = [view.admin_port for view in cluster.views()]

    def received() -> float:
        return sum(total(scrape(port), "dougdb_grpc_messages_received_total") for port in ports)

    # Connections and the first batches are not what is measured.
    run_blocking(cluster.url, Workload(kind="put", connections=64, seconds=1.0))
    # Heartbeats come by time, and a slow machine needs more of that for as many puts.
    begun, before = time.monotonic(), received()
    time.sleep(1.0)
    idle_per_s = (received() - before) / (time.monotonic() - begun)
    terms, before = cluster.terms(), received()
    with Witness(tmp_path) as witness:
        result = run_blocking(cluster.url, Workload(kind="put", connections=64, operations=6000, seconds=60.0))
    messages = (received() - before - idle_per_s * result.seconds) / result.ok
    print(f"64 connections: {result.summary()}, {messages:.3f} gRPC messages received per put")
    print(f"beside {idle_per_s:.0f} a second that come without any; {witness.told()}")
    assert not result.errors
    assert result.ok > 1000, "too little was written; this run says nothing"
    assert messages < 0.8
    assert cluster.terms() == terms or witness.longest_s() > ELECTION_S, "no term changes under load"


# -- what its nodes say ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stubs() -> Iterator[Callable[[NodeView], doug_pb2_grpc.DougStub]]:
    channels: dict[str, grpc.Channel] = {}

    def stub(view: NodeView) -> doug_pb2_grpc.DougStub:
        if view.address not in channels:
            channels[view.address] = grpc.insecure_channel(view.address, options=[("grpc.enable_http_proxy", 0)])
        return doug_pb2_grpc.DougStub(channels[view.address])

    yield stub
    for channel in channels.values():
        channel.close()


Stubs = Callable[[NodeView], doug_pb2_grpc.DougStub]


def refusal(call: Callable[..., object], request: Message) -> tuple[grpc.StatusCode, dict[str, str]]:
    """The status and the trailing metadata with which a call is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    error: Any = caught.value  # It is a grpc.Call too, which its type does not say.
    return error.code(), {str(name): str(value) for name, value in error.trailing_metadata() or ()}


def with_steady_leaders(cluster: Cluster, judge: Callable[[str], None], shard: str) -> None:
    """Judges what depends on who leads a shard; anew if somebody was elected meanwhile, as on a slow machine."""
    for _ in range(ELECTIONS_MAX):
        term = cluster.await_leader(shard).term
        try:
            judge(shard)
        except (AssertionError, KeyError, grpc.RpcError, pytest.fail.Exception):
            if cluster.terms()[shard] == term:
                raise
        else:
            return
    raise AssertionError(f"shard {shard} elects somebody again and again")


def test_a_put_to_the_leader_is_kept(cluster: Cluster, stubs: Stubs) -> None:
    def judge(shard: str) -> None:
        key = key_of_shard(cluster, shard)
        request = doug_pb2.PutRequest(key=key.encode(), value=b"direct", content_type="text/plain")
        assert stubs(cluster.await_leader(shard)).Put(request, timeout=30).revision > 0
        got = cluster.request("GET", f"/v1/kv/{key}")
        assert (got.body, got.headers["content-type"]) == (b"direct", "text/plain")

    for shard in cluster.shard_ids():
        with_steady_leaders(cluster, judge, shard)


def test_a_put_to_a_follower_is_told_the_leader(cluster: Cluster, stubs: Stubs) -> None:
    def judge(shard: str) -> None:
        leader = cluster.await_leader(shard)
        key = key_of_shard(cluster, shard)
        for view in cluster.shard_views(shard):
            if view.id == leader.id:
                continue
            request = doug_pb2.PutRequest(key=key.encode(), value=b"refused")
            code, metadata = refusal(stubs(view).Put, request)
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert metadata["doug-code"] == "NOT_LEADER"
            assert metadata["doug-leader-id"] == leader.id
            assert metadata["doug-leader-address"] == leader.address
        assert cluster.request("GET", f"/v1/kv/{key}").status == 404

    for shard in cluster.shard_ids():
        with_steady_leaders(cluster, judge, shard)


def test_a_put_to_the_wrong_shard_is_refused_and_stored_nowhere(cluster: Cluster, stubs: Stubs) -> None:
    first, second = cluster.shard_ids()

    def judge(other: str) -> None:
        owner = first if other == second else second
        key = key_of_shard(cluster, owner).encode()
        leader = stubs(cluster.await_leader(other))
        code, metadata = refusal(leader.Put, doug_pb2.PutRequest(key=key, value=b"astray"))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert metadata["doug-code"] == "WRONG_SHARD"
        assert cluster.request("GET", f"/v1/kv/{key.decode()}").status == 404
        for consistency in (doug_pb2.CONSISTENCY_EVENTUAL, doug_pb2.CONSISTENCY_LINEARIZABLE):
            code, metadata = refusal(leader.Get, doug_pb2.GetRequest(key=key, consistency=consistency))
            assert metadata["doug-code"] == "WRONG_SHARD"
        code, metadata = refusal(leader.Delete, doug_pb2.DeleteRequest(key=key))
        assert metadata["doug-code"] == "WRONG_SHARD"

    for shard in (second, first):
        with_steady_leaders(cluster, judge, shard)


def test_every_replica_answers_eventual_reads_itself(cluster: Cluster, stubs: Stubs) -> None:
    for shard in cluster.shard_ids():
        key = key_of_shard(cluster, shard)
        assert cluster.request("PUT", f"/v1/kv/{key}", b"everywhere").status == 200
        for view in cluster.await_equal(shard):
            request = doug_pb2.GetRequest(key=key.encode(), consistency=doug_pb2.CONSISTENCY_EVENTUAL)
            answer = stubs(view).Get(request, timeout=30)
            assert (answer.found, answer.value, answer.receipt.node_id) == (True, b"everywhere", view.id)


def test_every_node_serves_its_metrics(cluster: Cluster) -> None:
    for view in cluster.views():
        metrics = scrape(view.admin_port)
        assert total(metrics, "dougdb_raft_term") >= 1
        assert total(metrics, "dougdb_raft_commit_index") >= 1
        labels = next(iter(metrics["dougdb_grpc_messages_received_total"]))
        assert "service=" in labels
        assert "method=" in labels
