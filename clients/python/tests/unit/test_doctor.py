"""What ``dougctl doctor`` finds wrong."""

from __future__ import annotations

from dougdb.commands.doctor import findings
from dougdb.shapes import ClusterStatus, Member, Members, NodeStatus, ShardStatus


def node(number: int, role: str = "follower", applied: int = 100) -> NodeStatus:
    return NodeStatus(f"n{number}", f"127.0.0.1:{number}", "", role, 2, 100, applied, 100)


def cluster(*nodes: NodeStatus) -> ClusterStatus:
    return ClusterStatus((ShardStatus("0", nodes),), {})


def found(*nodes: NodeStatus) -> list[tuple[str, str]]:
    return [(each.severity, each.where) for each in findings(cluster(*nodes), {}, 10)]


def test_a_healthy_shard_has_no_findings() -> None:
    assert found(node(0, "leader"), *(node(number) for number in range(1, 5))) == []


def test_a_dead_node_is_a_warning_and_two_leave_no_reserve() -> None:
    nodes = [node(0, "leader"), node(1), node(2), node(3), node(4, "unreachable")]
    assert found(*nodes) == [("warning", "n4")]
    nodes[3] = node(3, "unreachable")
    assert found(*nodes) == [("warning", "shard 0"), ("warning", "n3"), ("warning", "n4")]


def test_a_shard_without_a_majority_or_a_leader_is_critical() -> None:
    nodes = [node(0, "candidate"), node(1), *(node(number, "unreachable") for number in (2, 3, 4))]
    assert found(*nodes)[0] == ("critical", "shard 0")
    assert found(*(node(number) for number in range(5))) == [("critical", "shard 0")]


def test_replicas_that_lag_or_wait_are_named() -> None:
    nodes = [node(0, "leader"), node(1, applied=89), node(2, applied=90), node(3, "waiting"), node(4)]
    assert found(*nodes) == [("warning", "n1"), ("warning", "n3")]


def test_a_member_that_its_leader_does_not_hear_is_named() -> None:
    nodes = [node(0, "leader"), *(node(number) for number in range(1, 5))]
    silent = Member("n2", "7", "voter", False, "", 1, 0, "probe", False)
    members = Members("0", (silent,), 100, False, {})
    (finding,) = findings(cluster(*nodes), {"0": members}, 10)
    assert (finding.where, "port" in finding.way_out) == ("n2", True)
