"""The calls of operators: the cluster, leadership, members, the timeline. Pure functions, as ``dougdb.calls``.

The client does not repeat these calls: an operator needs to see the first answer at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from dougdb.calls import JSON, Call
from dougdb.shapes import (
    ClusterStatus,
    LeaderMoved,
    MemberChange,
    Members,
    Timeline,
    cluster_of,
    leader_moved_of,
    member_change_of,
    members_of,
    timeline_of,
)

R = TypeVar("R")


def _shard(shard: str | int, below: str) -> str:
    return f"/v1/shards/{quote(str(shard), safe='')}/{below}"


def _force(force: bool) -> dict[str, str]:
    return {"force": "true"} if force else {}


def _look(path: str, read: Callable[[dict[str, Any]], R], params: Mapping[str, str] | None = None) -> Call[R]:
    return Call("GET", path, lambda answer: read(answer.document()), params or {}, JSON, repeats=False)


def _change(
    method: str,
    path: str,
    read: Callable[[dict[str, Any]], R],
    wanted: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
) -> Call[R]:
    content = None if wanted is None else json.dumps(wanted).encode()
    headers = JSON if content is None else {**JSON, "Content-Type": "application/json"}
    return Call(
        method,
        path,
        lambda answer: read(answer.document()),
        params or {},
        headers,
        content,
        write=True,
        repeats=False,
    )


def cluster(vitals: bool) -> Call[ClusterStatus]:
    """Every shard with its nodes."""
    return _look("/v1/cluster", cluster_of, {"vitals": "true"} if vitals else {})


def events(shard: str | int, since_us: int, limit: int) -> Call[Timeline]:
    """The events of a shard's nodes."""
    return _look(_shard(shard, "events"), timeline_of, {"since": str(since_us), "limit": str(limit)})


def transfer_leadership(shard: str | int, to: str | None) -> Call[LeaderMoved]:
    """Hands leadership over."""
    return _change("POST", _shard(shard, "leader"), leader_moved_of, {} if to is None else {"to": to})


def members(shard: str | int) -> Call[Members]:
    """The members of a shard."""
    return _look(_shard(shard, "members"), members_of)


def add_member(shard: str | int, name: str, address: str, incarnation: str | int | None) -> Call[MemberChange]:
    """Admits a node."""
    wanted = {"name": name, "address": address} | _incarnation(incarnation)
    return _change("POST", _shard(shard, "members"), member_change_of, wanted)


def _incarnation(incarnation: str | int | None) -> dict[str, str]:
    return {} if incarnation is None else {"incarnation": str(incarnation)}


def remove_member(shard: str | int, name: str, force: bool) -> Call[MemberChange]:
    """Removes a member."""
    path = _shard(shard, f"members/{quote(name, safe='')}")
    return _change("DELETE", path, member_change_of, params=_force(force))


def replace_member(
    shard: str | int, name: str, address: str | None, incarnation: str | int | None, force: bool
) -> Call[MemberChange]:
    """Admits a node with a new disk in place of its old incarnation."""
    path = _shard(shard, f"members/{quote(name, safe='')}/replace")
    wanted = ({} if address is None else {"address": address}) | _incarnation(incarnation)
    return _change("POST", path, member_change_of, wanted, _force(force))


def backup(shard: str | int) -> Call[None]:
    """The state of a shard as a tar archive; its body is read as it comes."""
    return Call("GET", _shard(shard, "backup"), lambda answer: None, repeats=False)


def partitions(counts: bool) -> Call[dict[str, Any]]:
    """The partition map."""
    return _look("/v1/partitions", dict, {"counts": "true"} if counts else {})


def version() -> Call[dict[str, Any]]:
    """The facade's version."""
    return _look("/v1/version", dict)


def ready() -> Call[bool]:
    """Whether the facade has its map, and every shard has had a leader."""
    return Call("GET", "/readyz", lambda answer: answer.status == 200, codes=frozenset({503}), repeats=False)
