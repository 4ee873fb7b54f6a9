"""EndpointSlices to targets: facade.discovery.slices."""

from __future__ import annotations

from typing import Any

import pytest

from facade.discovery.slices import Change, Slices
from facade.discovery.targets import Target


def endpoint(pod: str, ip: str, **more: Any) -> dict[str, Any]:
    return {"addresses": [ip], "targetRef": {"kind": "Pod", "name": pod}, **more}


def piece(name: str, *endpoints: dict[str, Any], shard: str = "0", version: int = 1, **more: Any) -> dict[str, Any]:
    labels = {"dougdb.io/shard": shard, "kubernetes.io/service-name": "dougdb-s0"}
    return {
        "metadata": {"name": name, "namespace": "ns", "labels": labels, "resourceVersion": str(version)},
        "addressType": "IPv4",
        "ports": [{"name": "peer", "port": 21001}, {"name": "client", "port": 21000}],
        "endpoints": list(endpoints),
        **more,
    }


def only(*items: dict[str, Any]) -> dict[int, dict[str, Target]]:
    slices = Slices("client", {})
    slices.replace(items)
    return slices.targets()


def test_a_node_is_known_by_its_pod_and_has_its_own_name() -> None:
    found = only(piece("a", endpoint("s0-0", "10.0.0.1")), piece("b", endpoint("s0-1", "10.0.0.2")))
    assert found == {
        0: {
            "s0-0": Target("10.0.0.1:21000", "s0-0.dougdb-s0.ns.svc"),
            "s0-1": Target("10.0.0.2:21000", "s0-1.dougdb-s0.ns.svc"),
        }
    }


def test_several_slices_of_several_shards_are_merged() -> None:
    found = only(
        piece("a", endpoint("s0-0", "10.0.0.1"), endpoint("s0-1", "10.0.0.2")),
        piece("b", endpoint("s0-2", "10.0.0.3")),
        piece("c", endpoint("s1-0", "10.0.1.1"), shard="1"),
    )
    assert {shard: list(nodes) for shard, nodes in found.items()} == {0: ["s0-0", "s0-1", "s0-2"], 1: ["s1-0"]}


def test_of_a_pod_that_is_listed_twice_the_living_one_counts() -> None:
    old = endpoint("s0-0", "10.0.0.1", conditions={"terminating": True, "ready": False})
    new = endpoint("s0-0", "10.0.0.9", conditions={"ready": False})
    for items in ((piece("a", old), piece("b", new)), (piece("a", new), piece("b", old))):
        assert only(*items)[0]["s0-0"].address == "10.0.0.9:21000"
    assert only(piece("a", old))[0]["s0-0"].address == "10.0.0.1:21000", "it still serves while it drains"


def test_the_service_that_gives_pods_their_names_says_how_they_are_called() -> None:
    plain = piece("a", endpoint("s0-0", "10.0.0.1"))
    named = piece("b", endpoint("s0-0", "10.0.0.1", hostname="s0-0"))
    named["metadata"]["labels"]["kubernetes.io/service-name"] = "dougdb-s0-peers"
    assert only(plain, named)[0]["s0-0"].name == "s0-0.dougdb-s0-peers.ns.svc"


def test_the_settings_may_say_how_the_pods_of_a_shard_are_called() -> None:
    slices = Slices("client", {0: "dougdb-s0-peers.ns.svc.cluster.local"})
    slices.replace([piece("a", endpoint("s0-0", "10.0.0.1")), piece("c", endpoint("s1-0", "10.0.1.1"), shard="1")])
    targets = slices.targets()
    assert targets[0]["s0-0"].name == "s0-0.dougdb-s0-peers.ns.svc.cluster.local"
    assert targets[1]["s1-0"].name == "s1-0.dougdb-s0.ns.svc"


def test_ipv6_gets_brackets_and_ipv4_goes_first() -> None:
    six = piece("a", endpoint("s0-0", "fd00::1"), addressType="IPv6")
    assert only(six)[0]["s0-0"].address == "[fd00::1]:21000"
    assert only(six, piece("b", endpoint("s0-0", "10.0.0.1")))[0]["s0-0"].address == "10.0.0.1:21000"


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"metadata": None},
        piece("x", endpoint("s0-9", "10.0.0.9"), shard="many"),
        piece("x", endpoint("s0-9", "10.0.0.9"), shard=""),
        piece("x", endpoint("s0-9", "10.0.0.9"), ports=[{"name": "peer", "port": 1}]),
        piece("x", endpoint("s0-9", "10.0.0.9"), ports=None),
        piece("x", endpoint("s0-9", "host.example"), addressType="FQDN"),
        piece("x", {"addresses": ["10.0.0.9"]}),
        piece("x", {"addresses": [], "targetRef": {"kind": "Pod", "name": "s0-9"}}),
        piece("x", endpoints=None),
    ],
)
def test_what_is_not_understood_is_left_out(odd: dict[str, Any]) -> None:
    assert list(only(piece("a", endpoint("s0-0", "10.0.0.1")), odd)[0]) == ["s0-0"]


def test_a_list_replaces_everything_and_tells_the_difference() -> None:
    slices = Slices("client", {})
    assert slices.replace(
        [piece("a", endpoint("s0-0", "10.0.0.1")), piece("b", endpoint("s0-1", "10.0.0.2"))]
    ) == Change(2)
    again = [piece("b", endpoint("s0-1", "10.0.0.3"), version=5), piece("c", endpoint("s0-2", "10.0.0.4"))]
    assert slices.replace(again) == Change(added=1, changed=1, removed=1)
    assert list(slices.targets()[0]) == ["s0-1", "s0-2"]


def test_nodes_are_counted_not_slices() -> None:
    """A slice holds up to a hundred nodes, and each node is in one slice of each Service."""
    slices = Slices("client", {})
    two = (endpoint("s0-0", "10.0.0.1"), endpoint("s0-1", "10.0.0.2"))
    assert slices.apply("ADDED", piece("a", *two)) == Change(added=2)
    assert slices.apply("ADDED", piece("b", *two)) == Change(), "the other Service tells the same"
    not_ready = (endpoint("s0-0", "10.0.0.1", conditions={"ready": False}), two[1])
    assert slices.apply("MODIFIED", piece("a", *not_ready, version=2)) == Change(), "it is where it was"
    moved = endpoint("s0-0", "10.0.0.9", hostname="s0-0")
    assert slices.apply("MODIFIED", piece("a", moved, version=3)) == Change(changed=1)
    assert slices.apply("DELETED", piece("b")) == Change(removed=1)
    assert slices.replace([piece("a", *two)]) == Change(added=1, changed=1)


def test_events_change_one_slice() -> None:
    slices = Slices("client", {})
    assert slices.apply("ADDED", piece("a", endpoint("s0-0", "10.0.0.1"))) == Change(added=1)
    assert slices.apply("MODIFIED", piece("a", endpoint("s0-0", "10.0.0.2"))) == Change(changed=1)
    assert slices.apply("BOOKMARK", {"metadata": {"resourceVersion": "9"}}) == Change()
    assert slices.targets()[0]["s0-0"].address == "10.0.0.2:21000"
    assert slices.apply("DELETED", piece("a")) == Change(removed=1)
    assert slices.apply("DELETED", piece("a")) == Change()
    assert slices.targets() == {}
