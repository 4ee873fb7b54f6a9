"""What a request and an answer of the HTTP interface look like (docs/api.md): pure functions, no network.

Invariant: a key's path is percent-encoded whole, so that no proxy and no URL library can fold ``//``, ``.`` or ``..``
in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from dougdb.answers import STORED_ENCODING, Answer
from dougdb.checks import OCTET_STREAM, Bytes, key_bytes, ttl
from dougdb.errors import InvalidKeyError, ServerError

DEFAULT_URL = "http://127.0.0.1:8080"


class Consistency(StrEnum):
    """The consistencies of a read: what it promises to see."""

    LINEARIZABLE = "linearizable"
    """The read sees every write that was acknowledged before the read began."""
    SESSION = "session"
    """The read sees all that this session has read and written, from any replica that has caught up."""
    EVENTUAL = "eventual"
    """The read sees some applied state, of any replica."""


def bounded(max_staleness: float | str | timedelta) -> str:
    """The consistency of a read that sees all that was acknowledged longer ago than ``max_staleness``.

    Raises:
        InvalidArgumentError: The bound is no time.
    """
    return f"bounded; max_staleness={ttl(max_staleness, may_keep=False, name='max_staleness')}"


def consistency_params(consistency: Consistency | str | None) -> dict[str, str]:
    """The query that asks for a consistency."""
    if consistency is None:
        return {}
    name, _, rest = str(consistency).partition(";")
    staleness = rest.strip().removeprefix("max_staleness=")
    return {"consistency": name.strip()} | ({"max_staleness": staleness} if staleness else {})


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an answer says beside its body: the node that answered, and the state of the key.

    Attributes:
        shard: The id of the shard that owns the key.
        served_by: The node that answered.
        revision: The value's revision, where the answer names one.
        expires_at: When the key expires, if it does.
        replayed: Whether this is the answer to an earlier request with the same idempotency key.
        timing: The duration of each step in milliseconds (docs/api.md, Server-Timing); empty if it was not told.
    """

    shard: str
    served_by: str
    revision: str | None
    expires_at: datetime | None = None
    replayed: bool = False
    timing: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Value:
    """A stored value as it was read.

    Attributes:
        data: The value's bytes, as they were stored.
        content_type: The content type, which was stored with the value.
        receipt: The node that answered, and the value's revision.
        content_encoding: The content encoding, which was stored with the value; None if it has none.
    """

    data: bytes
    content_type: str
    receipt: Receipt
    content_encoding: str | None = None

    @property
    def revision(self) -> str:
        """The value's revision."""
        return self.receipt.revision or ""

    @property
    def expires_at(self) -> datetime | None:
        """When the value expires; None for never."""
        return self.receipt.expires_at


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One replica, as the facade sees it. The figures are None while it is unreachable."""

    id: str
    address: str
    admin: str
    role: str
    term: int | None
    commit_index: int | None
    applied_index: int | None
    last_log_index: int | None
    vitals: Mapping[str, Any] | None = None
    """The node's vitals, as in ``/v1/cluster?vitals=true``; None if they were not asked for, or it did not answer."""
    trouble: str | None = None
    """Why the facade cannot reach the node, if it knows: ``certificate_expired``, ``certificate_refused``."""


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard and its replicas."""

    id: str
    nodes: tuple[NodeStatus, ...]

    @property
    def leader(self) -> NodeStatus | None:
        """The leader of the highest term, or None."""
        leaders = [node for node in self.nodes if node.role == "leader"]
        return max(leaders, key=lambda node: node.term or 0, default=None)


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The answer of ``/v1/cluster``; ``document`` is the answer itself."""

    shards: tuple[ShardStatus, ...]
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """One event of one node; see ``GET /v1/shards/{id}/events``.

    Attributes:
        shard: The id of the node's shard.
        time_us: The node's wall clock, microseconds since the epoch, when the event happened first.
        last_time_us: The node's wall clock when the event happened last.
        count: How often the event happened in a row.
        identity: The node, the start of its process and a number, which no other event has together.
        document: The event as it was answered.
    """

    shard: str
    node: str
    time_us: int
    last_time_us: int
    term: int
    name: str
    details: Mapping[str, Any]
    count: int
    identity: tuple[str, str, int]
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Timeline:
    """What the nodes of a shard did, oldest first.

    Attributes:
        unreachable: The nodes whose events are missing.
        cut: Whether older events were left out, because of the limit.
        document: The answer itself.
    """

    events: tuple[Event, ...]
    unreachable: tuple[str, ...]
    cut: bool
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LeaderMoved:
    """The answer to a transfer of leadership.

    Attributes:
        shard: The shard's id.
        leader: The name of the new leader.
        term: The term since which it leads.
        previous: The name of the leader before; empty if it is not known.
    """

    shard: str
    leader: str
    term: int
    previous: str


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a shard, as its leader sees it; see ``GET /v1/shards/{id}/members``.

    Attributes:
        name: The node's name.
        incarnation: The incarnation of the node's disk; another disk has another one.
        role: ``voter`` or ``learner``.
        leader: Whether the member leads.
        address: The member's Raft address; empty if the leader does not know it.
        match_index: The last entry up to which its log is known to be the leader's.
        lag: How many entries of the leader's log lie behind ``match_index``.
        state: How entries are sent to the member: ``probe``, ``replicate`` or ``snapshot``; empty for the leader.
        healthy: Whether the leader has heard the member lately.
    """

    name: str
    incarnation: str
    role: str
    leader: bool
    address: str
    match_index: int
    lag: int
    state: str
    healthy: bool


@dataclass(frozen=True, slots=True)
class Members:
    """The members of a shard, voters first.

    Attributes:
        shard: The id of the shard.
        last_log_index: The last entry of the leader's log.
        changing: Whether the newest change is not committed yet.
        document: The answer itself.
    """

    shard: str
    members: tuple[Member, ...]
    last_log_index: int
    changing: bool
    document: dict[str, Any]

    def named(self, name: str) -> Member | None:
        """The member of this name, or None."""
        return next((member for member in self.members if member.name == name), None)


@dataclass(frozen=True, slots=True)
class MemberChange:
    """A change of members that has come to stay.

    Attributes:
        name: The name of the node that was admitted or removed.
        incarnation: The incarnation of its disk.
        removed_incarnation: The incarnation that was replaced; empty if none was.
        document: The answer itself.
    """

    name: str
    incarnation: str
    removed_incarnation: str
    document: dict[str, Any]


def encode_key(key: str | Bytes) -> str:
    """The percent-encoded path of a key that is text.

    Raises:
        InvalidKeyError: The key is empty, longer than 1 KiB, or not UTF-8.
    """
    raw = key_bytes(key)
    try:
        text = raw.decode()
    except UnicodeError:
        raise InvalidKeyError("the key is not valid UTF-8") from None
    # A path segment of dots alone would be resolved on the way; anything else is safe once every slash is encoded.
    return text.replace(".", "%2E") if text in (".", "..") else quote(raw, safe="")


def time_of(text: str | None) -> datetime | None:
    """A time in UTC as answers name it, or None.

    Raises:
        ServerError: The text is no time.
    """
    if not text:
        return None
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise ServerError(200, f"not a time: {text!r}") from None


def shown_time(time: datetime | None) -> str | None:
    """A time as documents show it."""
    return None if time is None else time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def receipt_of(answer: Answer) -> Receipt:
    """Reads who served a request from the answer's header fields."""
    etag = answer.headers.get("ETag")
    return Receipt(
        shard=answer.headers.get("Doug-Shard", ""),
        served_by=answer.headers.get("Doug-Served-By", ""),
        revision=etag.strip('"') if etag else None,
        expires_at=time_of(answer.headers.get("Doug-Expires-At")),
        replayed=answer.headers.get("Idempotency-Replayed") == "true",
        timing=timing_of(answer.headers.get("Server-Timing", "")),
    )


def timing_of(header: str) -> dict[str, float]:
    """Reads the steps of a ``Server-Timing`` header that have a duration; proxies may add others of their own."""
    found = re.findall(r"([A-Za-z0-9_-]+);dur=([0-9]+(?:\.[0-9]+)?)(?=\s*(?:;|,|$))", header)
    return {name: float(duration) for name, duration in found}


def value_of(answer: Answer) -> Value:
    """Reads a stored value from the answer to a GET."""
    return Value(
        answer.content,
        answer.headers.get("Content-Type", OCTET_STREAM),
        receipt_of(answer),
        answer.headers.get(STORED_ENCODING),
    )


def cluster_of(document: dict[str, Any]) -> ClusterStatus:
    """Reads the answer of ``/v1/cluster``.

    Raises:
        ServerError: The document does not have the documented form.
    """
    try:
        shards = tuple(
            ShardStatus(str(shard["id"]), tuple(_node_of(node) for node in shard["nodes"]))
            for shard in document["shards"]
        )
    except (KeyError, TypeError) as error:
        raise ServerError(200, f"not a cluster document: {error!r}") from None
    return ClusterStatus(shards, document)


def _node_of(node: Mapping[str, Any]) -> NodeStatus:
    return NodeStatus(
        id=str(node["id"]),
        address=str(node.get("address", "")),
        admin=str(node.get("admin", "")),
        role=str(node["role"]),
        term=node.get("term"),
        commit_index=node.get("commit_index"),
        applied_index=node.get("applied_index"),
        last_log_index=node.get("last_log_index"),
        vitals=node.get("vitals"),
        trouble=node.get("trouble"),
    )


def timeline_of(document: dict[str, Any]) -> Timeline:
    """Reads the answer of ``/v1/shards/{id}/events``.

    Raises:
        ServerError: The document does not have the documented form.
    """
    try:
        shard = str(document["shard"])
        return Timeline(
            events=tuple(_event_of(shard, event) for event in document["events"]),
            unreachable=tuple(str(node) for node in document["unreachable"]),
            cut=bool(document["cut"]),
            document=document,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(200, f"not a timeline: {error!r}") from None


def _event_of(shard: str, event: dict[str, Any]) -> Event:
    return Event(
        shard=shard,
        node=str(event["node"]),
        time_us=int(event["time_us"]),
        last_time_us=int(event["last_time_us"]),
        term=int(event["term"]),
        name=str(event["name"]),
        details=dict(event["details"]),
        count=int(event["count"]),
        identity=(str(event["node"]), str(event["start_id"]), int(event["sequence"])),
        document=event,
    )


def leader_moved_of(document: dict[str, Any]) -> LeaderMoved:
    """Reads the answer of ``POST /v1/shards/{id}/leader``.

    Raises:
        ServerError: The document does not have the documented form.
    """
    try:
        return LeaderMoved(
            str(document["shard"]), str(document["leader"]), int(document["term"]), str(document["previous"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(200, f"not an answer to a transfer: {error!r}") from None


def members_of(document: dict[str, Any]) -> Members:
    """Reads the answer of ``GET /v1/shards/{id}/members``.

    Raises:
        ServerError: The document does not have the documented form.
    """
    try:
        return Members(
            str(document["shard"]),
            tuple(_member_of(member) for member in document["members"]),
            int(document["last_log_index"]),
            bool(document["changing"]),
            document,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(200, f"not a list of members: {error!r}") from None


def _member_of(member: Mapping[str, Any]) -> Member:
    return Member(
        name=str(member["name"]),
        incarnation=str(member["incarnation"]),
        role=str(member["role"]),
        leader=bool(member["leader"]),
        address=str(member["address"] or ""),
        match_index=int(member["match_index"]),
        lag=int(member["lag"]),
        state=str(member["state"] or ""),
        healthy=bool(member["healthy"]),
    )


def member_change_of(document: dict[str, Any]) -> MemberChange:
    """Reads the answer to a change of members.

    Raises:
        ServerError: The document does not have the documented form.
    """
    try:
        return MemberChange(
            str(document["name"]),
            str(document["incarnation"]),
            str(document["removed_incarnation"] or ""),
            document,
        )
    except (KeyError, TypeError) as error:
        raise ServerError(200, f"not an answer to a change of members: {error!r}") from None
