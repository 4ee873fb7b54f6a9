"""What directed scenarios have in common: a shard in a known state, and the few things that are done to it by hand.

Each scenario puts a simulated cluster into one situation instead of a random one. The checkers watch it all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from raft_node.raft.config import RaftConfig
from raft_node.raft.membership import members_of
from raft_node.raft.types import Configuration
from raft_testing.cluster import Cluster
from raft_testing.disk import MemoryLog, WalLog
from raft_testing.engine_store import EngineStore
from raft_testing.environment import Habits
from raft_testing.machine import MemoryStore
from raft_testing.network import Link
from raft_testing.node import SimulatedNode

COMPACTS = Habits(flush_permille=1000, kept_entries=4, snapshot_chunks=6)
"""Nodes that make durable what they have applied, and keep hardly any log behind it."""


def agreed(
    seed: int,
    size: int = 5,
    *,
    spares: int = 0,
    habits: Habits | None = None,
    log: type[MemoryLog] | type[WalLog] = MemoryLog,
    store: type[MemoryStore] | type[EngineStore] = MemoryStore,
    config: RaftConfig | None = None,
) -> Cluster:
    """A shard that has elected a leader and agrees."""
    cluster = Cluster(
        f"scenario {seed}", size, config or RaftConfig(), log=log, store=store, spares=spares, habits=habits
    )
    cluster.start()
    assert cluster.clock.run(lambda: cluster.converged, 3_000_000), "no shard came about"
    return cluster


def run_for(cluster: Cluster, milliseconds: int) -> None:
    """Lets virtual time pass."""
    cluster.clock.run(lambda: False, cluster.clock.now_us + milliseconds * 1000)


def wait_for(cluster: Cluster, until: Callable[[], bool], milliseconds: int = 5_000) -> bool:
    """Lets virtual time pass until something is so; whether it came to be."""
    return cluster.clock.run(until, cluster.clock.now_us + milliseconds * 1000)


def leader_of(cluster: Cluster) -> SimulatedNode:
    """Who leads."""
    leader = cluster.leader
    assert leader is not None, "nobody leads"
    return leader


def followers_of(cluster: Cluster) -> list[SimulatedNode]:
    """The other members, in the order of their names."""
    return [node for node in cluster.members if node is not cluster.leader]


def term_of(node: SimulatedNode) -> int:
    """A running node's term."""
    assert node.raft is not None, f"{node.name} is down"
    return node.raft.term


def put(cluster: Cluster, node: SimulatedNode, limit_ms: int = 1000) -> str:
    """Writes at a node; gives what it answered, or nothing."""
    answers: list[str] = []
    node.put([("k", f"v{cluster.clock.now_us}", lambda status, value=None, leader="": answers.append(status))])
    wait_for(cluster, lambda: bool(answers), limit_ms)
    return answers[0] if answers else ""


def fill(cluster: Cluster, count: int) -> None:
    """Writes so many entries at the leader."""
    for _ in range(count):
        assert put(cluster, leader_of(cluster)) == "ok"


def both_ways(*pairs: tuple[str, str]) -> list[Link]:
    """Links between nodes, in both directions."""
    return [link for a, b in pairs for link in ((a, b), (b, a))]


def cut_off(cluster: Cluster, names: Iterable[str]) -> None:
    """Cuts some nodes off from all others."""
    inside = set(names)
    pairs = [(a, b) for a in cluster.nodes for b in cluster.nodes if (a in inside) and (b not in inside)]
    cluster.network.cut(both_ways(*pairs), "partition")


def change(cluster: Cluster, wanted: Configuration, *, limit_ms: int = 1000) -> str:
    """Has the leader propose other members; gives what it said, and waits until that is committed if it did."""
    leader, answers = leader_of(cluster), list[str]()
    leader.change_members(wanted, answers.append)
    wait_for(cluster, lambda: bool(answers), limit_ms)
    if answers == ["proposed"]:
        wait_for(cluster, lambda: cluster.checkers.configurations.newest == wanted, limit_ms)
    return answers[0] if answers else ""


def configuration_of(node: SimulatedNode) -> Configuration:
    """The members by which a running node goes."""
    assert node.raft is not None, f"{node.name} is down"
    return node.raft.configuration


def in_step(cluster: Cluster, node: SimulatedNode) -> bool:
    """Whether a node is a member, and has the leader's state."""
    leader = cluster.leader
    if leader is None or leader.raft is None or node.raft is None or node.installation.busy:
        return False
    return node.identity in members_of(leader.raft.configuration) and node.store.head == leader.store.head
