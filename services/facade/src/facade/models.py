"""The JSON bodies of requests and answers, for FastAPI's documentation and validation.

Must not know how their contents are obtained. Names and types are the HTTP contract of docs/api.md.
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
    """A node's health. Counts and seconds grow from the start of the node's process on."""

    version: str
    clock_ahead_ms: float | None = Field(
        description="How far the node's clock is ahead of this facade's; null if unknown"
    )
    clock_error_ms: float | None = Field(description="The largest error of clock_ahead_ms; null if unknown")
    uptime_ms: int
    memory_bytes: int
    leader_heard_ms: int | None = Field(description="Milliseconds since the node last heard a leader; null at a leader")
    log_bytes: int
    table_bytes: int
    compaction_pending_bytes: int
    proposals_pending: int
    syncs: int = Field(description="Syncs of the log")
    sync_seconds: float
    commits: int = Field(description="Batches that were committed while the node led")
    commit_seconds: float
    disk_low: bool = Field(description="Whether the node refuses writes for lack of space")
    stalled: bool
    draining: bool
    divergences: int = Field(description="How often the node's state differed from its leader's")
    certificate_ends_s: int | None = Field(description="When it expires, seconds since the epoch; null without TLS")
    volumes: list[VolumeView]


class NodeView(Model):
    """One raft-node by its answer to Admin.Status; zeros and ``unreachable`` if there was no answer."""

    id: str
    address: str = Field(description="Doug gRPC, host:port")
    role: Role
    term: int = 0
    commit_index: int = 0
    applied_index: int = 0
    last_log_index: int = 0
    admin: str | None = Field(default=None, description="Admin HTTP, host:port; null if the node never answered")
    vitals: VitalsView | None = Field(default=None, description="Only with vitals=true, and for nodes that answered")
    trouble: Literal["certificate_expired", "certificate_refused"] | None = Field(
        default=None, description="Only with vitals=true: why the node cannot be reached; null if not known"
    )


class ShardView(Model):
    """One Raft cluster."""

    id: int
    nodes: list[NodeView]


class FacadeView(Model):
    """A facade's health."""

    id: str
    version: str
    map_epoch: int | None = Field(description="The epoch of its partition map; null before it has one")
    time_us: int = Field(description="The facade's wall clock, microseconds since the epoch")
    certificate_ends_s: int | None = Field(description="When it expires, seconds since the epoch; null without TLS")


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
        default=None, description="Only with counts=true: the requests for each slot since this facade's start"
    )


class EventView(Model):
    """One event of one node."""

    node: str
    start_id: str = Field(description="The id of a start of the node's process; sequence counts within it")
    sequence: int
    time_us: int = Field(description="The node's wall clock at the first occurrence, microseconds since the epoch")
    monotonic_us: int = Field(description="The node's monotonic clock: differences within one start are exact")
    term: int
    name: str
    details: dict[str, Any]
    count: int = Field(description="How often the event occurred in a row with the same details")
    last_time_us: int = Field(description="The node's wall clock at the last occurrence, microseconds since the epoch")


class EventSourceView(Model):
    """A node whose events were asked for; nulls and ``reachable: false`` if it did not answer."""

    id: str
    reachable: bool
    start_id: str | None = None
    clock_us: int | None = Field(default=None, description="The node's wall clock when it answered, in microseconds")
    forgotten: int | None = Field(default=None, description="How many events of this start the node no longer holds")


class EventsView(Model):
    """The events of all nodes of a shard, sorted by time and then by node; a node's own events keep their order."""

    shard: int
    events: list[EventView]
    nodes: list[EventSourceView]
    unreachable: list[str] = Field(description="The nodes that did not answer, whose events are missing")
    cut: bool = Field(description="Whether older events are left out because of the limit")


class LeaderRequest(Model):
    """The node to which leadership is to be transferred."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    to: str | None = Field(default=None, max_length=253, description="A node's id; or the most caught-up voter")


class LeaderView(Model):
    """The leader of a shard after a transfer of leadership."""

    shard: int
    leader: str
    term: int
    previous: str = Field(description="The leader before; empty if not known")


MemberRole = Literal["voter", "learner"]
MemberState = Literal["probe", "replicate", "snapshot"]


class MemberView(Model):
    """One member of a shard, as the leader sees it."""

    name: str
    incarnation: str = Field(description="A decimal number; a new disk has a new one")
    role: MemberRole
    leader: bool
    address: str | None = Field(description="Raft gRPC, host:port; null if the leader does not know it")
    client_address: str | None = Field(description="Doug gRPC, host:port; null until the leader knows it")
    match_index: int = Field(description="The last entry up to which its log is known to equal the leader's")
    lag: int = Field(description="How many entries the leader's log has beyond match_index")
    state: MemberState | None = Field(description="How the leader sends entries to it; null for the leader")
    healthy: bool = Field(description="Whether the leader heard from it within the longest election timeout")


class MembersView(Model):
    """The members of a shard, voters first."""

    shard: int
    term: int
    commit_index: int
    last_log_index: int
    changing: bool = Field(description="Whether the newest change is not committed yet")
    members: list[MemberView]


class AddMemberRequest(BaseModel):
    """The node that is to be admitted as a member."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=253)
    address: str = Field(min_length=1, max_length=512, description="The node's Raft address, host:port")
    incarnation: str | None = Field(
        default=None,
        pattern=r"^[1-9][0-9]{0,18}$",
        description="Its incarnation, which its log says; needed for a node that belongs to no cluster yet",
    )


class ReplaceMemberRequest(BaseModel):
    """The address and the new incarnation of a node whose disk was wiped or replaced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    address: str | None = Field(
        default=None, max_length=512, description="The node's Raft address, host:port; if left out, the known one"
    )
    incarnation: str | None = Field(
        default=None,
        pattern=r"^[1-9][0-9]{0,18}$",
        description="Its incarnation, which its log says; needed for a node that belongs to no cluster yet",
    )


class MemberChangeView(Model):
    """A change of members that is committed."""

    shard: int
    name: str
    incarnation: str
    removed_incarnation: str | None = Field(description="The incarnation that it replaced; null if none")
    index: int = Field(description="The log index of the change")
    term: int


class VersionView(Model):
    """The name and the version of the running program."""

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
    batch_bytes: int = Field(description="The limit of a JSON body; NDJSON may have any length")
    batch_line_bytes: int = Field(description="The limit of one line of NDJSON")
    txn_operations: int = Field(description="The limit of each of compare, success and failure")
    txn_bytes: int = Field(description="The limit of all keys and values of a transaction together")
    txn_result_bytes: int
    json_bytes: int = Field(description="The limit of the body of any other route")
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
    operation: int | None = Field(default=None, description="In a transaction: the position of the failed operation")


class ValueView(Model):
    """The JSON view of a key. A key that is not UTF-8 has ``key64`` instead of ``key``."""

    key: str | None = None
    key64: str | None = Field(default=None, description="base64url (RFC 4648, 5) without padding")
    value: str
    encoding: Literal["utf-8", "base64"]
    revision: str
    content_type: str
    expires_at: str | None = Field(description="RFC 3339, UTC; null if the key does not expire")
    content_encoding: str | None = Field(default=None, description="Left out if the value has none")


class RangeView(Model):
    """A page of a range of keys."""

    items: list[dict[str, Any]] = Field(
        description="Entries: key (or key64 if it is not UTF-8), value, encoding, revision, content_type"
    )
    prefixes: list[str | dict[str, str]] = Field(description="Common prefixes; a prefix that is not UTF-8 as prefix64")
    count: int | None = Field(default=None, description="With count_only: the number of keys")
    next_cursor: str | None = Field(description="The cursor of the next page; null if nothing is left")
    complete: bool = Field(description="Whether nothing is left")
    revisions: dict[str, str] = Field(description="The revision of each shard at the point in its log that was read")


class RangeDeletedView(Model):
    """A step of the deletion of a range of keys."""

    dry_run: bool
    found: int | None = Field(default=None, description="With dry_run: the number of keys found")
    deleted: int = Field(description="The number of keys deleted")
    next_cursor: str | None = Field(description="The cursor of the next step; null if nothing is left")
    complete: bool = Field(description="Whether nothing is left")
    revisions: dict[str, str] = Field(description="The revision of each shard when its keys were read")


class WrittenView(Model):
    """The answer to a PUT or a touch."""

    revision: str


class CountedView(Model):
    """The answer to an increment."""

    value: str
    revision: str


class IncrementRequest(Model):
    """The amount to add, and the value of which to start if the key does not exist."""

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
    """Operations that are carried out independently of each other."""

    operations: list[OperationRequest] = Field(max_length=10_000)


class ResultView(Model):
    """The result of one operation: the HTTP status that it would have alone, and the members that belong to it."""

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
    """One result for each operation, in the order of the operations."""

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
    """A transaction: if all comparisons hold, ``success`` is carried out, otherwise ``failure``."""

    compare: list[CompareRequest] = Field(default=[], max_length=128)
    success: list[OperationRequest] = Field(default=[], max_length=128)
    failure: list[OperationRequest] = Field(default=[], max_length=128)


class TxnView(Model):
    """The result of a transaction."""

    succeeded: bool
    results: list[ResultView]
    revision: str


class OperationStateView(Model):
    """The outcome of a write with an idempotency key, as its shard keeps it."""

    key: str
    state: Literal["applied", "unknown"]
    status: int | None
    revision: str | None
