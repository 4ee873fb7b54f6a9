"""What the console shows of the nodes, and its figures of the last hour."""

from __future__ import annotations

from math import isnan
from types import SimpleNamespace
from typing import Any

import pytest

from doug.v1 import admin_pb2
from facade.console.history import SAMPLES, SHARDS_MAX, History, percentile_ms, shard_sample
from facade.console.view import PIECE_NODES, Views

NODE: Any = SimpleNamespace(id="shard-0-0", address="h:1", admin="h:2")


def status(commit: int = 10, **vitals: Any) -> admin_pb2.StatusResponse:
    return admin_pb2.StatusResponse(
        node_id="shard-0-0",
        role="leader",
        term=3,
        commit_index=commit,
        applied_index=9,
        vitals=admin_pb2.Vitals(**{"uptime_ms": 5000, "voted_for": "shard-0-0", **vitals}),
    )


def shown(views: Views, answer: admin_pb2.StatusResponse | None, now_s: float) -> dict[str, Any]:
    ((shard,),) = views.pieces({0: [(NODE, answer)]}, now_s)
    (node,) = shard["nodes"]
    return dict(node)


def test_a_node_that_does_not_answer_has_no_figures() -> None:
    assert shown(Views(), None, 0.0) == {"id": "shard-0-0", "address": "h:1", "admin": "h:2", "role": "unreachable"}


def test_a_node_without_vitals_has_none() -> None:
    answer = status()
    answer.ClearField("vitals")
    node = shown(Views(), answer, 0.0)
    assert (node["role"], node["commit"]) == ("leader", 10)
    assert "uptime_ms" not in node


def test_rates_are_of_the_time_between_two_looks() -> None:
    views = Views()
    first = shown(views, status(10, syncs=4, sync_seconds=0.4, compacted_bytes=100), 10.0)
    assert (first["commit_rate"], first["compaction_rate"], first["sync_ms"]) == (None, None, 100.0)
    second = shown(views, status(30, uptime_ms=9000, syncs=6, sync_seconds=0.41, compacted_bytes=500), 14.0)
    assert (second["commit_rate"], second["compaction_rate"], second["sync_ms"]) == (5.0, 100, 5.0)
    idle = shown(views, status(30, uptime_ms=9500, syncs=6, sync_seconds=0.41, compacted_bytes=500), 14.5)
    assert (idle["commit_rate"], idle["sync_ms"], idle["commit_ms"]) == (0.0, round(410 / 6, 3), None)


def test_a_process_that_was_started_anew_counts_anew() -> None:
    views = Views()
    shown(views, status(30, uptime_ms=9000, syncs=600, sync_seconds=6.0), 10.0)
    node = shown(views, status(2, uptime_ms=100, syncs=1, sync_seconds=0.002), 11.0)
    assert (node["commit_rate"], node["sync_ms"]) == (None, 2.0)


def test_a_leader_tells_of_its_peers() -> None:
    views = Views()
    peer: dict[str, Any] = {"name": "b", "match_index": 8, "state": "replicate", "heard_ms": 20}
    shown(views, status(peers=[admin_pb2.Peer(**peer, round_trips=10, round_trip_seconds=0.1)]), 1.0)
    node = shown(views, status(peers=[admin_pb2.Peer(**peer, round_trips=12, round_trip_seconds=0.11)]), 2.0)
    assert node["peers"] == [{"name": "b", "match": 8, "state": "replicate", "heard_ms": 20, "round_trip_ms": 5.0}]


def test_what_is_not_known_is_null() -> None:
    node = shown(Views(), status(), 0.0)
    assert (node["heard_ms"], node["memory_bytes"]) == (None, None)
    assert shown(Views(), status(leader_heard_ms=0), 0.0)["heard_ms"] == 0


def test_a_learner_that_does_not_answer_is_known_as_one() -> None:
    views = Views()
    learner, voter = status(), status()
    learner.role, voter.role = "learner", "follower"
    assert "learner" not in shown(views, learner, 1.0)
    assert [shown(views, None, now_s)["learner"] for now_s in (2.0, 3.0)] == [True, True]
    shown(views, voter, 4.0)
    assert "learner" not in shown(views, None, 5.0)


@pytest.mark.parametrize(("shards", "each"), [(1000, 5), (70, 1), (3, PIECE_NODES + 1), (2, PIECE_NODES)])
def test_however_many_nodes_there_are_a_piece_of_work_is_bounded(shards: int, each: int) -> None:
    statuses = {
        number: [
            (SimpleNamespace(id=f"{number}-{place}", address="h:1", admin="h:2"), status()) for place in range(each)
        ]
        for number in range(shards)
    }
    views = Views()
    for now_s in (1.0, 2.0):
        pieces = list(views.pieces(statuses, now_s))  # type: ignore[arg-type]  # Nodes that have no connections.
        assert [shard["id"] for piece in pieces for shard in piece] == list(range(shards))
        assert all(len(piece) == 1 or len(piece) * each <= PIECE_NODES for piece in pieces)
    assert pieces[-1][-1]["nodes"][-1]["commit_rate"] == 0.0, "each node is compared with itself at the look before"


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ([0, 0, 0], 0.5, None),
        ([4, 0, 0], 0.5, 0.5),
        ([2, 2, 0], 0.75, 1.5),
        ([0, 0, 5], 0.99, 2.0),
        ([1, 0, 1], 0.5, 1.0),
    ],
)
def test_percentiles(counts: list[int], share: float, expected: float | None) -> None:
    found = percentile_ms(counts, (0.001, 0.002), share)
    assert isnan(found) if expected is None else found == pytest.approx(expected)


def test_a_shard_without_a_node_that_answers_has_no_figures() -> None:
    sample = shard_sample([{"role": "unreachable"}])
    assert sample.pop("up") == 0
    assert all(isnan(value) for value in sample.values())


def test_a_shards_figures_are_those_of_its_worst_node() -> None:
    nodes: list[dict[str, Any]] = [
        {"role": "leader", "term": 3, "commit": 10, "applied": 10, "commit_rate": 2.0, "sync_ms": 1, "commit_ms": 4},
        {
            "role": "follower", "term": 3, "commit": 9, "applied": 4, "commit_rate": 1.0, "sync_ms": 7.0,
            "commit_ms": 99.0, "disks": [{"free_bytes": 1, "total_bytes": 4}, {"free_bytes": 0, "total_bytes": 0}],
        },
        {"role": "unreachable"},
    ]  # fmt: skip
    sample = shard_sample(nodes)
    assert {name: sample[name] for name in ("term", "commits", "lag", "sync_ms", "commit_ms", "free_share", "up")} == {
        "term": 3, "commits": 2.0, "lag": 6, "sync_ms": 7.0, "commit_ms": 4.0, "free_share": 0.25, "up": 2,
    }  # fmt: skip


def test_the_last_hour_is_all_that_is_kept() -> None:
    history = History()
    for time_s in range(SAMPLES + 10):
        shards = {0: {"term": time_s}} | ({1: {"term": 7}} if time_s >= SAMPLES else {})
        history.add(time_s, {"requests": time_s}, shards)
    document = history.document([0, 1, 5])
    assert (document["times"][0], document["times"][-1], len(document["times"])) == (10, SAMPLES + 9, SAMPLES)
    assert document["facade"]["requests"][0] == 10
    assert {len(column) for column in document["shards"]["1"].values()} == {SAMPLES}
    assert document["shards"]["1"]["term"][-10:] == [7.0] * 10
    assert isnan(document["shards"]["1"]["term"][-11])
    assert "5" not in document["shards"]


def test_only_so_many_shards_are_kept() -> None:
    history = History()
    history.add(1, {}, {shard: {} for shard in range(1000)})
    assert history.document([])["kept_shards"] == list(range(SHARDS_MAX))
