"""What ``dougctl doctor`` finds wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from dougdb.cli import app
from dougdb.client import DougClient
from dougdb.commands import common, doctor
from dougdb.diagnosis import Facade, Limits, findings, in_doubt, settled
from dougdb.shapes import ClusterStatus, Member, Members, NodeStatus, ShardStatus, cluster_of

LIMITS = Limits(lag=10)
NOW_S = 1_800_000_000


def node(number: int, role: str = "follower", applied: int = 100) -> NodeStatus:
    return NodeStatus(f"n{number}", f"127.0.0.1:{number}", "", role, 2, 100, applied, 100)


def cluster(*nodes: NodeStatus) -> ClusterStatus:
    return ClusterStatus((ShardStatus("0", nodes),), {})


def found(*nodes: NodeStatus) -> list[tuple[str, str]]:
    return [(each.severity, each.where) for each in findings(cluster(*nodes), {}, LIMITS)]


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
    (finding,) = findings(cluster(*nodes), {"0": members}, LIMITS)
    assert (finding.where, "port" in finding.way_out) == ("n2", True)


# What a single look may be wrong about.


def test_who_answers_one_of_two_looks_is_not_down() -> None:
    up = cluster(node(0, "leader"), *(node(number) for number in range(1, 5)))
    silent = cluster(node(0, "unreachable"), *(node(number, "unreachable") for number in range(1, 5)))
    one = cluster(node(0, "leader"), node(1, "unreachable"), *(node(number) for number in range(2, 5)))
    leaderless = cluster(*(node(number) for number in range(5)))
    for worse in (silent, one, leaderless):
        assert in_doubt(up, worse) and findings(settled(up, worse), {}, LIMITS) == []
        assert not in_doubt(worse, worse) and findings(settled(worse, worse), {}, LIMITS)
    assert not in_doubt(up, up) and not in_doubt(one, up)


@pytest.mark.parametrize(("looks", "code"), [("ud", 1), ("udu", 0), ("udd", 1), ("dd", 1), ("du", 0)])
def test_the_command_looks_again_when_a_node_has_just_fallen_silent(
    monkeypatch: pytest.MonkeyPatch, looks: str, code: int
) -> None:
    down = well()
    down.document["shards"][0]["nodes"][1]["role"] = "unreachable"
    told = [well() if each == "u" else down for each in looks]
    assert ask(monkeypatch, told, "--json").exit_code == code


# What nodes say of themselves.


def vitals(**told: Any) -> dict[str, Any]:
    return {
        "version": "1.0.0", "clock_ahead_ms": 1.0, "clock_error_ms": 0.5, "uptime_ms": 60_000, "syncs": 100,
        "sync_seconds": 0.2, "disk_low": False, "stalled": False, "draining": False, "divergences": 0,
        "certificate_ends_s": None, "volumes": [{"name": "wal", "total_bytes": 1000, "free_bytes": 500}], **told,
    }  # fmt: skip


def well(*told: dict[str, Any], **facade: Any) -> ClusterStatus:
    """Five nodes, of which the first say something else of themselves."""
    nodes = [
        {
            "id": f"n{number}", "address": "127.0.0.1:1", "admin": None, "role": "follower" if number else "leader",
            "term": 2, "commit_index": 100, "applied_index": 100, "last_log_index": 100,
            "vitals": vitals(**(told[number] if number < len(told) else {})),
        }
        for number in range(5)
    ]  # fmt: skip
    said = {"id": "f", "version": "1.0.0", "map_epoch": 4, "time_us": NOW_S * 1_000_000, "certificate_ends_s": None}
    return cluster_of({"shards": [{"id": 0, "nodes": nodes}], "facade": {**said, **facade}})


def kinds(status: ClusterStatus, *, before: ClusterStatus | None = None, facades: tuple[Facade, ...] = ()) -> Any:
    found = findings(status, {}, Limits(), before=before, facades=facades)
    assert all(each.way_out for each in found)
    return [(each.severity, each.where, each.code) for each in found]


def test_nothing_is_wrong_with_nodes_that_are_well() -> None:
    assert kinds(well()) == []


@pytest.mark.parametrize(
    ("told", "severity", "code"),
    [
        ({"divergences": 1}, "critical", "diverged"),
        ({"disk_low": True}, "critical", "disk_full"),
        ({"volumes": [{"name": "data", "total_bytes": 1000, "free_bytes": 99}]}, "warning", "disk_nearly_full"),
        ({"stalled": True}, "warning", "stalled"),
        ({"draining": True}, "warning", "draining"),
        ({"sync_seconds": 5.1}, "warning", "slow_disk"),
        ({"clock_ahead_ms": 5001.0}, "warning", "clock_skew"),
        ({"clock_ahead_ms": -5001.0}, "warning", "clock_skew"),
        ({"certificate_ends_s": NOW_S - 1}, "critical", "certificate_expired"),
        ({"certificate_ends_s": NOW_S + 13 * 86_400}, "warning", "certificate_expires"),
    ],
)
def test_what_a_node_says_of_itself(told: dict[str, Any], severity: str, code: str) -> None:
    assert kinds(well(told)) == [(severity, "n0", code)]


@pytest.mark.parametrize(
    "told",
    [
        {"volumes": [{"name": "data", "total_bytes": 1000, "free_bytes": 100}]},
        {"volumes": [{"name": "data", "total_bytes": 0, "free_bytes": 0}]},
        {"sync_seconds": 5.0},
        {"syncs": 0, "sync_seconds": 0.0},
        # The way to it took so long that its clock may be right.
        {"clock_ahead_ms": 600.0, "clock_error_ms": 400.0},
        {"clock_ahead_ms": None, "clock_error_ms": None},
        {"certificate_ends_s": NOW_S + 15 * 86_400},
    ],
)
def test_what_is_just_within_the_limits_or_not_said_is_no_finding(told: dict[str, Any]) -> None:
    assert kinds(well(told)) == []


def test_what_a_disk_does_now_counts_and_not_what_it_did_yesterday() -> None:
    slow_once = well({"sync_seconds": 60.0, "syncs": 100})
    assert kinds(slow_once)[0][2] == "slow_disk"
    assert kinds(well({"sync_seconds": 60.01, "syncs": 110}), before=slow_once) == []
    slow_now = well({"sync_seconds": 62.0, "syncs": 110})
    assert kinds(slow_now, before=slow_once) == [("warning", "n0", "slow_disk")]
    # A process that was started anew has begun to count anew.
    assert kinds(well({"uptime_ms": 10, "syncs": 101, "sync_seconds": 0.1}), before=slow_once) == []


def test_the_facade_whose_clock_all_nodes_disagree_with_is_the_one() -> None:
    told = {"clock_ahead_ms": 4000.0}
    assert kinds(well(told, told, told, told, told)) == [("warning", "the facade", "clock_skew")]


@pytest.mark.parametrize("trouble", ["certificate_expired", "certificate_refused"])
def test_who_cannot_be_reached_for_its_certificate_is_told_so(trouble: str) -> None:
    document = well().document
    document["shards"][0]["nodes"][1] |= {"role": "unreachable", "vitals": None, "trouble": trouble}
    assert kinds(cluster_of(document)) == [("critical", "n1", trouble)]


def test_hours_are_told_when_it_is_no_day_any_more() -> None:
    (finding,) = findings(well({"certificate_ends_s": NOW_S + 5400}), {}, Limits())
    assert finding.what == "The certificate expires in 1.5 hours."


def test_several_versions_are_one_finding() -> None:
    facade = Facade("http://a", {"version": "1.0.0", "map_epoch": 4, "certificate_ends_s": None})
    assert kinds(well({"version": "0.9.0"}), facades=(facade,)) == [("warning", "cluster", "mixed_versions")]


def test_facades_that_are_gone_or_behind() -> None:
    def said(**told: Any) -> dict[str, Any]:
        return {"version": "1.0.0", "map_epoch": 4, "certificate_ends_s": None, **told}

    facades = (
        Facade("http://a", said()),
        Facade("http://b", said(map_epoch=3)),
        Facade("http://c", said(map_epoch=None)),
        Facade("http://d", None, "refused"),
        Facade("http://e", said(certificate_ends_s=NOW_S - 1)),
    )
    assert sorted(kinds(well(), facades=facades)) == [
        ("critical", "http://c", "no_map"),
        ("critical", "http://e", "certificate_expired"),
        ("warning", "http://b", "old_map"),
        ("warning", "http://d", "facade_down"),
    ]


# The command.


def ask(monkeypatch: pytest.MonkeyPatch, told: ClusterStatus | Sequence[ClusterStatus], *arguments: str) -> Any:
    """Runs the command on what a facade says at each look; at all that follow, what it said last."""
    looks = [told] if isinstance(told, ClusterStatus) else list(told)

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.port == 9:
            raise httpx.ConnectError("refused")
        if request.url.path == "/v1/cluster":
            status = looks.pop(0) if len(looks) > 1 else looks[0]
            return httpx.Response(200, json=status.document)
        return httpx.Response(503, json={"outcome": "not_applied"})

    def client(url: str, **options: Any) -> DougClient:
        return DougClient(url, **options, transport=httpx.MockTransport(handle))

    monkeypatch.setattr(common, "DougClient", client)
    monkeypatch.setattr(doctor, "DougClient", client)
    return CliRunner().invoke(app, ["doctor", "--wait", "0", *arguments])


def test_the_command_ends_with_0_when_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    result = ask(monkeypatch, well())
    assert (result.exit_code, result.stdout) == (
        0, "nothing is wrong with 1 shards, 5 nodes and 1 facade, as far as they say\n",
    )  # fmt: skip
    assert json.loads(ask(monkeypatch, well(), "--json").stdout) == {"healthy": True, "findings": []}


def test_the_command_names_what_is_wrong_and_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    result = ask(monkeypatch, well({"disk_low": True}), "--facade", "http://127.0.0.1:9")
    assert result.exit_code == 1
    what = "The node refuses writes, because its disk is full (free: wal 500 B)."
    assert result.stdout.startswith(f"CRITICAL: n0: {what}\n    Enlarge the volume")
    assert "WARNING: http://127.0.0.1:9: The facade does not answer (" in result.stdout
    document = json.loads(ask(monkeypatch, well({"disk_low": True}), "--json").stdout)
    assert [each["code"] for each in document["findings"]] == ["disk_full"]
    assert ask(monkeypatch, well({"clock_ahead_ms": 300.0}), "--skew-max", "400").exit_code == 0
