"""The JSON bodies that the facade answers with, for FastAPI's documentation and validation.

Must not know how they are obtained. Names and types are the HTTP contract of docs/api.md.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["leader", "follower", "candidate", "learner", "waiting", "unreachable"]


class Model(BaseModel):
    """The base of all bodies: immutable, and filled by field name or alias."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)


class VolumeView(Model):
    """One of a node's volumes."""

    name: str = Field(description="wal or data")
    total_bytes: int
    free_bytes: int


class VitalsView(Model):
    """How a node is. Counts and seconds grow from the start of its process on."""

    version: str
    clock_ahead_ms: float | None = Field(description="Its wall clock beside this facade's; null when it did not say")
    clock_error_ms: float | None = Field(description="By how much that can be wrong")
    uptime_ms: int
    memory_bytes: int
    leader_heard_ms: int | None = Field(description="How long ago it heard a leader; null at a leader")
    log_bytes: int
    table_bytes: int
    compaction_pending_bytes: int
    proposals_pending: int
    syncs: int = Field(description="Of its log")
    sync_seconds: float
    commits: int = Field(description="Batches that it saw committed while it led")
    commit_seconds: float
    disk_low: bool = Field(description="It refuses writes for want of room")
    stalled: bool
    draining: bool
    divergences: int = Field(description="How often its state differed from its leader's")
    certificate_ends_s: int | None = Field(description="Seconds since the epoch; null without TLS")
    volumes: list[VolumeView]


class NodeView(Model):
    """One raft-node as it answered Admin.Status; zeros and ``unreachable`` when it did not answer."""

    id: str
    address: str = Field(description="Doug gRPC, host:port")
    role: Role
    term: int = 0
    commit_index: int = 0
    applied_index: int = 0
    last_log_index: int = 0
    admin: str | None = Field(default=None, description="Admin HTTP, host:port; null when it was never seen")
    vitals: VitalsView | None = Field(default=None, description="Only with vitals=true, and of nodes that answered")
    trouble: Literal["certificate_expired", "certificate_refused"] | None = Field(
        default=None, description="Only with vitals=true: why a node cannot be reached, where that is known"
    )


class ShardView(Model):
    """One Raft cluster."""

    id: int
    nodes: list[NodeView]


class FacadeView(Model):
    """How a facade is."""

    id: str
    version: str
    map_epoch: int | None = Field(description="Of the partition map that it goes by; null before it has one")
    time_us: int = Field(description="Its wall clock, microseconds since the epoch")
    certificate_ends_s: int | None = Field(description="Seconds since the epoch; null without TLS")


class ClusterView(Model):
    """All Raft clusters."""

    shards: list[ShardView]
    facade: FacadeView | None = Field(default=None, description="This facade; only with vitals=true")


class SlotRangeView(Model):
    """Adjacent slots of one shard, both ends included."""

    first: int = Field(alias="from")
    last: int = Field(alias="to")
    shard: int


class PartitionsView(Model):
    """The partition map as this facade knows it."""

    epoch: int
    slots: list[SlotRangeView]
    counts: list[int] | None = Field(
        default=None, description="Only with counts=true: how often this facade was asked for each slot since its start"
    )


class EventView(Model):
    """One event of one node."""

    node: str
    start_id: str = Field(description="Which start of the node's process; sequences count within one")
    sequence: int
    time_us: int = Field(description="The node's wall clock, microseconds since the epoch, when it happened first")
    monotonic_us: int = Field(description="The node's monotonic clock: differences within one start are exact")
    term: int
    name: str
    details: dict[str, Any]
    count: int = Field(description="How often it happened in a row, all else being equal")
    last_time_us: int = Field(description="The node's wall clock when it happened last")


class EventSourceView(Model):
    """What a node said of its own ring of events; nulls and ``reachable: false`` when it did not answer."""

    id: str
    reachable: bool
    start_id: str | None = None
    clock_us: int | None = Field(default=None, description="Its wall clock when it answered")
    forgotten: int | None = Field(default=None, description="How many events of this start it no longer holds")


class EventsView(Model):
    """What the nodes of a shard did, in one order: by time, then node; a node's own events keep their order."""

    shard: int
    events: list[EventView]
    nodes: list[EventSourceView]
    unreachable: list[str] = Field(description="The nodes whose events are missing here")
    cut: bool = Field(description="Whether older events that were asked for are left out, because of the limit")


class LeaderRequest(Model):
    """Where leadership is to go."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    to: str | None = Field(default=None, max_length=253, description="A node's id; left out, the most caught-up voter")


class LeaderView(Model):
    """Who leads a shard after leadership was moved."""

    shard: int
    leader: str
    term: int
    previous: str = Field(description="Who led before; empty when that is not known")


MemberRole = Literal["voter", "learner"]
MemberState = Literal["probe", "replicate", "snapshot"]


class MemberView(Model):
    """One member of a shard, as the leader sees it."""

    name: str
    incarnation: str = Field(description="A decimal number; another disk has another one")
    role: MemberRole
    leader: bool
    address: str | None = Field(description="Raft gRPC, host:port; null when the leader does not know it")
    client_address: str | None = Field(description="Doug gRPC, host:port; null until the leader has heard it")
    match_index: int = Field(description="Up to here its log is known to be the leader's")
    lag: int = Field(description="How many entries of the leader's log lie behind that")
    state: MemberState | None = Field(description="How entries are sent to it; null for the leader")
    healthy: bool = Field(description="Whether it was heard within the longest election timeout")


class MembersView(Model):
    """The members of a shard, voters first."""

    shard: int
    term: int
    commit_index: int
    last_log_index: int
    changing: bool = Field(description="Whether the newest change is not committed yet")
    members: list[MemberView]


class AddMemberRequest(BaseModel):
    """Which node is to be admitted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=253)
    address: str = Field(min_length=1, max_length=512, description="Its Raft address, host:port")
    incarnation: str | None = Field(
        default=None,
        pattern=r"^[1-9][0-9]{0,18}$",
        description="Its incarnation, which its log says; needed for a node that belongs to no cluster yet",
    )


class ReplaceMemberRequest(BaseModel):
    """Where the node is whose disk was wiped or replaced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    address: str | None = Field(
        default=None, max_length=512, description="Its Raft address, host:port; left out, the one that is known"
    )
    incarnation: str | None = Field(
        default=None,
        pattern=r"^[1-9][0-9]{0,18}$",
        description="Its incarnation, which its log says; needed for a node that belongs to no cluster yet",
    )


class MemberChangeView(Model):
    """A change of members that has come to stay."""

    shard: int
    name: str
    incarnation: str
    removed_incarnation: str | None = Field(description="What made place for it, when it was replaced")
    index: int = Field(description="The entry of the log that brought it")
    term: int


class VersionView(Model):
    """What is running here."""

    name: str = "facade"
    version: str
    facade_id: str


class HealthView(Model):
    """The answer of /livez and /readyz."""

    status: Literal["ok"] = "ok"


class LimitsView(Model):
    """Every limit that a request can meet; the unit is the end of each name."""

    key_bytes: int
    value_bytes: int
    content_type_bytes: int
    content_encoding_bytes: int
    idempotency_key_characters: int
    ttl_ms: int
    batch_operations: int
    batch_bytes: int = Field(description="Of a JSON body; NDJSON may be of any length")
    batch_line_bytes: int = Field(description="Of one line of NDJSON")
    txn_operations: int = Field(description="Of each of compare, success and failure")
    txn_bytes: int = Field(description="Keys and values of a transaction together")
    txn_result_bytes: int
    json_bytes: int = Field(description="Of the body of any other route")
    request_timeout_ms: int
    body_timeout_ms: int
    head_timeout_ms: int


class Problem(Model):
    """An RFC 9457 problem document. Members without a value are left out."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    outcome: Literal["not_applied", "unknown"]
    shard: int | None = None
    current_revision: str | None = Field(default=None, description="With 412: the key's revision; null without a key")
    operation: int | None = Field(default=None, description="Of a transaction: the place of the operation that failed")


class ValueView(Model):
    """The JSON view of a key. ``key`` is left out, and ``key64`` there, when the key is not text."""

    key: str | None = None
    key64: str | None = Field(default=None, description="base64url (RFC 4648, 5) without padding")
    value: str
    encoding: Literal["utf-8", "base64"]
    revision: str
    content_type: str
    expires_at: str | None = Field(description="RFC 3339, UTC; null when the key does not expire")
    content_encoding: str | None = Field(default=None, description="Left out when there is none")


class RangeView(Model):
    """A page of a range of keys."""

    items: list[dict[str, Any]] = Field(
        description="Entries: key (or key64 when it is not UTF-8), value, encoding, revision, content_type"
    )
    prefixes: list[str | dict[str, str]] = Field(description="Common prefixes; prefix64 when one is not UTF-8")
    count: int | None = Field(default=None, description="With count_only: how many there are")
    next_cursor: str | None = Field(description="Where the next page begins; null when nothing is left")
    complete: bool = Field(description="Whether nothing is left")
    revisions: dict[str, str] = Field(description="By shard, its revision at the point in its log that was read")


class RangeDeletedView(Model):
    """A step of the deletion of a range of keys."""

    dry_run: bool
    found: int | None = Field(default=None, description="With dry_run: how many there are")
    deleted: int = Field(description="How many went")
    next_cursor: str | None = Field(description="Where the next step begins; null when nothing is left")
    complete: bool = Field(description="Whether nothing is left")
    revisions: dict[str, str] = Field(description="By shard, its revision when its keys were read")


class WrittenView(Model):
    """The answer to a PUT or a touch."""

    revision: str


class CountedView(Model):
    """The answer to an increment."""

    value: str
    revision: str


class IncrementRequest(Model):
    """By how much, and what a key that is not there counts as."""

    by: int = Field(default=1, ge=-(1 << 63), le=(1 << 63) - 1)
    initial: int = Field(default=0, ge=-(1 << 63), le=(1 << 63) - 1)


class OperationRequest(Model):
    """An operation of a batch or a transaction; which members it has depends on ``op`` (docs/api.md)."""

    op: Literal["get", "put", "delete", "increment", "touch"]
    key: str | None = None
    key64: str | None = None
    value: str | None = None
    encoding: Literal["utf-8", "base64"] | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    ttl: str | None = None
    by: int | None = None
    initial: int | None = None
    if_revision: str | None = None
    if_absent: bool | None = None
    if_exists: bool | None = None


class BatchRequest(Model):
    """Operations that have nothing to do with each other."""

    operations: list[OperationRequest] = Field(max_length=10_000)


class ResultView(Model):
    """What became of one operation: its status as if alone, and what goes with it."""

    status: int
    revision: str | None = None
    key: str | None = None
    key64: str | None = None
    value: str | None = None
    encoding: Literal["utf-8", "base64"] | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    expires_at: str | None = None
    replayed: bool | None = None
    code: str | None = None
    detail: str | None = None
    retryable: bool | None = None
    outcome: Literal["not_applied", "unknown"] | None = None
    shard: int | None = None
    current_revision: str | None = None


class BatchView(Model):
    """A result for each operation, in their order."""

    results: list[ResultView]


class CompareRequest(Model):
    """One comparison of a transaction: one of ``exists``, ``absent``, ``revision`` and ``value``."""

    key: str | None = None
    key64: str | None = None
    exists: bool | None = None
    absent: bool | None = None
    revision: str | None = None
    value: str | None = None
    encoding: Literal["utf-8", "base64"] | None = None


class TxnRequest(Model):
    """When all comparisons hold, ``success``; otherwise ``failure``."""

    compare: list[CompareRequest] = Field(default=[], max_length=128)
    success: list[OperationRequest] = Field(default=[], max_length=128)
    failure: list[OperationRequest] = Field(default=[], max_length=128)


class TxnView(Model):
    """What became of a transaction."""

    succeeded: bool
    results: list[ResultView]
    revision: str


class OperationStateView(Model):
    """What a shard remembers of an idempotency key."""

    key: str
    state: Literal["applied", "unknown"]
    status: int | None
    revision: str | None
