"""The common parts of directed scenarios: a shard in a known state, and the operations that tests do by hand.

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
"""Habits of nodes that flush after every applied batch, and keep hardly any log."""


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
    """Makes a shard that has elected a leader, with all nodes in the same state."""
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
    """Lets virtual time pass until ``until`` returns True; returns False if it did not in this time."""
    return cluster.clock.run(until, cluster.clock.now_us + milliseconds * 1000)


def leader_of(cluster: Cluster) -> SimulatedNode:
    """The node that leads."""
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
    """Sends a write to a node; returns its answer, empty if none came in time."""
    answers: list[str] = []
    node.put([("k", f"v{cluster.clock.now_us}", lambda status, value=None, leader="": answers.append(status))])
    wait_for(cluster, lambda: bool(answers), limit_ms)
    return answers[0] if answers else ""


def fill(cluster: Cluster, count: int) -> None:
    """Writes ``count`` entries at the leader."""
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
    """Lets the leader propose other members; returns its answer, after the commit if it proposed them."""
    leader, answers = leader_of(cluster), list[str]()
    leader.change_members(wanted, answers.append)
    wait_for(cluster, lambda: bool(answers), limit_ms)
    if answers == ["proposed"]:
        wait_for(cluster, lambda: cluster.checkers.configurations.newest == wanted, limit_ms)
    return answers[0] if answers else ""


def configuration_of(node: SimulatedNode) -> Configuration:
    """The configuration of a running node."""
    assert node.raft is not None, f"{node.name} is down"
    return node.raft.configuration


def in_step(cluster: Cluster, node: SimulatedNode) -> bool:
    """Whether a node is a member, and has the leader's state."""
    leader = cluster.leader
    if leader is None or leader.raft is None or node.raft is None or node.installation.busy:
        return False
    return node.identity in members_of(leader.raft.configuration) and node.store.head == leader.store.head
