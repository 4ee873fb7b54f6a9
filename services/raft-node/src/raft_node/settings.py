"""The settings of a raft-node: environment variables with the prefix ``DOUGDB_``, one model, checked at start.

Every time is in milliseconds and every size in bytes. The Raft core gets a plain ``RaftConfig`` made of these.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from raft_node.errors import SettingsError

_ADDRESS = re.compile(r"^(?P<host>\[[0-9a-fA-F:.%]+\]|[^:\[\]\s]+):(?P<port>\d{1,5})$")


def parse_address(address: str) -> tuple[str, int]:
    """Splits ``host:port`` or ``[host]:port``.

    Raises:
        ValueError: It is neither, or the port is beyond 65535.
    """
    match = _ADDRESS.match(address)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(f"{address!r} is not host:port")
    return match["host"].strip("[]"), int(match["port"])


def is_any_address(host: str) -> bool:
    """Whether a host is the one that stands for all addresses of a machine, at which nobody can be reached."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


class NodeSettings(BaseSettings):
    """Everything that can be set for one node. Frozen; ``DOUGDB_*`` variables of others are ignored."""

    model_config = SettingsConfigDict(env_prefix="DOUGDB_", frozen=True, extra="ignore")

    node_id: str = Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
    """The node's name; in Kubernetes the name of its pod. It never changes."""
    shard_id: int = Field(ge=0, le=1023)
    """Which shard this node is a replica of."""
    initial_shards: int = Field(default=1, ge=1, le=1024)
    """How many shards a new cluster starts with. Read only when a shard is created."""
    peers: str
    """Members of this shard with their Raft addresses: ``name=host:port,...``, this node among them.

    At the first start of the shard these are its members. Later they are where a node that joins asks, and win over the
    addresses that members were admitted with.
    """
    seeds: str = ""
    """Raft addresses of shard 0, ``host:port,...``: where another shard learns the cluster's id at its first start."""
    wal_dir: str = Field(min_length=1)
    """The volume of the write-ahead log."""
    data_dir: str = Field(min_length=1)
    """The volume of the SSTables."""

    zone: str = Field(default="", max_length=253)
    """Where the node runs, as the facades' ``DOUGDB_ZONE`` calls it: each of these reads close to itself if it can."""

    client_listen: str = "127.0.0.1:21000"
    """Where the Doug and Admin services listen."""
    peer_listen: str = "127.0.0.1:21001"
    """Where the Raft service listens."""
    admin_listen: str = "127.0.0.1:21002"
    """Where /metrics, /livez and /readyz are served over HTTP."""
    client_advertise: str = ""
    """The Doug address that others are told; ``client_listen`` when empty."""

    tls_mode: Literal["", "disabled", "mutual"] = ""
    """``mutual``: TLS with certificates on both ends. ``disabled``: plaintext, also beyond this machine. Empty:
    plaintext on loopback, and no start with anything else."""
    tls_cert_file: str = ""
    """The certificate with its chain, as PEM."""
    tls_key_file: str = ""
    """Its key."""
    tls_ca_file: str = ""
    """The authority that signs the certificates of all nodes and facades."""
    tls_reload_ms: int = Field(default=5000, ge=100, le=3_600_000)
    """How often these files are looked at; new ones count for new connections."""

    auth_mode: str = Field(default="none", pattern=r"^(none|(token|mtls|oidc)( *, *(token|mtls|oidc))*)$")
    """As the facades': with all but ``none``, TLS is needed, and facades and nodes alone may call Doug and Admin."""
    auth_facade_names: str = "dougdb-facade"
    """By which names in their certificates facades are told, a comma list; nodes are told by their own."""

    tick_ms: int = Field(default=10, ge=1, le=1000)
    """The grain of the core's time."""
    election_timeout_ms: int = Field(default=150, ge=10, le=60_000)
    """The shortest time without a leader before an election; the paper's 150 ms."""
    election_timeout_max_ms: int = Field(default=300, ge=20, le=120_000)
    """The longest one; each is drawn anew between the two, so that votes seldom split."""
    heartbeat_ms: int = Field(default=50, ge=1, le=30_000)
    """How often a leader without traffic speaks: at least twice within an election timeout."""
    leader_lease_enabled: bool = False
    """Whether a leader with a lease serves linearizable reads without asking the others (docs/raft.md, Leases).
    Every node of a shard must count the same election timeout. It saves a round trip, and rests on clocks that run at
    nearly the same rate and that no machine's pause stops."""
    leader_lease_margin_ms: int = Field(default=50, ge=1, le=60_000)
    """How much shorter than the shortest election timeout a lease is, for clocks that run at different rates."""
    replicate_window: int = Field(default=1, ge=1, le=64)
    """AppendEntries under way to a follower. One is fastest on a short way: what arrives meanwhile is the next one."""
    replicate_bytes_max: int = Field(default=1 << 20, ge=1 << 16, le=4 << 20)
    """How large one AppendEntries grows, or one entry."""
    uncommitted_bytes_max: int = Field(default=32 << 20, ge=2 << 20)
    """Proposals that are not committed yet; beyond it new ones are refused as overload."""
    log_cache_bytes: int = Field(default=8 << 20, ge=1 << 16)
    """The tail of the log that is kept in memory; older entries are read from disk."""

    memtable_bytes: int = Field(default=16 << 20, ge=1 << 12, le=1 << 30)
    """When a memtable is rotated and flushed. Two of them and the flush must fit the memory of a small container."""
    wal_segment_bytes: int = Field(default=8 << 20, ge=1 << 16, le=1 << 30)
    """The size of a log segment; it is filled with zeros before use, because overwriting syncs faster than growing."""
    block_cache_bytes: int = Field(default=16 << 20, ge=0)
    """Decoded blocks of SSTables that are kept in memory."""
    compression: Literal["none", "lz4", "zstd"] = "lz4"
    """How blocks of SSTables are compressed, where it pays."""
    idle_merge_ms: int = Field(default=5000, ge=0, le=86_400_000)
    """When little was written for so long, SSTables are merged further than writes need, one merge in each such time,
    so that reads have fewer to look into; 0 to never do it."""

    reserve_bytes: int = Field(default=64 << 20, ge=0, le=1 << 40)
    """Below so much free space on a volume writes are refused. As much again is held by a file beside the data, which
    goes when the room gets short, so that a compaction can still free space. 0: refuse only when a disk was full."""
    scrub_bytes_per_s: int = Field(default=4 << 20, ge=0, le=1 << 40)
    """How fast the checksums of all SSTables are checked in the background; 0 to never do it."""
    scrub_every_ms: int = Field(default=6 * 3_600_000, ge=1000, le=2_592_000_000)
    """How long that rests when all of them were checked."""
    state_hash_every: int = Field(default=10_000, ge=0, le=1 << 32)
    """After so many entries the leader has all replicas compare a hash of what they hold; 0 to never do it."""
    log_keep_bytes: int = Field(default=64 << 20, ge=1 << 16)
    """So much of the log is kept for nodes that lag behind or restart, beyond what this node itself still needs."""
    log_bytes_max: int = Field(default=1 << 30, ge=1 << 16)
    """So much of the log is kept at most for a node that is slow but answers; then it gets a snapshot instead."""
    snapshot_chunk_bytes: int = Field(default=256 << 10, ge=1 << 10, le=4 << 20)
    """How much of a snapshot goes into one message."""
    snapshot_timeout_ms: int = Field(default=30_000, ge=1000)
    """A snapshot whose receiver takes nothing and says nothing for this long is given up, and begun again later."""
    idempotency_kept_ms: int = Field(default=86_400_000, ge=1000, le=31_622_400_000)
    """For so long of log time at least it is kept what became of a write with an idempotency key."""
    idempotency_keys_max: int = Field(default=1_000_000, ge=0, le=1 << 32)
    """So many are kept at most; further writes with a key are refused then, never are others forgotten early."""
    idempotency_bytes_max: int = Field(default=256 << 20, ge=4 << 20, le=1 << 40)
    """So many bytes they may take with their results, in the same way; that of a plain write takes about 130.
    These three settings are the leader's, who puts them into the log; so all nodes of a shard should have the same."""
    scans_max: int = Field(default=16, ge=1, le=1024)
    """Scans under way; further ones are refused as overload. Each holds a copy of the memtable while writes go on."""
    scan_hold_ms: int = Field(default=120_000, ge=1000, le=86_400_000)
    """How long a scan may go on: it keeps files that merges have replaced. Whoever asked begins another one behind the
    last key that it has."""
    scan_idle_ms: int = Field(default=30_000, ge=100, le=3_600_000)
    """How long whoever asked for a scan may take nothing."""
    history_bytes_max: int = Field(default=64 << 20, ge=0, le=1 << 40)
    """So many bytes of changes are kept on disk for watches, beyond those in memory; 0 for none."""
    history_age_ms: int = Field(default=24 * 3_600_000, ge=1000, le=31_622_400_000)
    """For so long, by the log's clock, a change is kept there at most."""
    watches_max: int = Field(default=256, ge=1, le=65_536)
    """Watches that are open on this node; a facade has one for all its clients, and some for those that catch up."""
    proposal_timeout_ms: int = Field(default=15_000, ge=100)
    """After this time a proposal without a result is answered as unknown, so that nothing waits for ever."""
    drain_timeout_ms: int = Field(default=3_000, ge=0, le=60_000)
    """How long a stop, or an operator who moves leadership, waits until another node leads."""
    stop_flush_timeout_ms: int = Field(default=2_000, ge=0, le=60_000)
    """How long a stop waits for what is in memory to be flushed, so that the next start has little to replay."""
    events_max: int = Field(default=4096, ge=16, le=65_536)
    """How many events the node keeps in memory for ``dougctl timeline``."""
    events_bytes_max: int = Field(default=1 << 20, ge=1 << 14, le=4 << 20)
    """How many bytes they take, about; an answer with all of them fits one gRPC message."""
    slow_append_ms: int = Field(default=100, ge=1, le=60_000)
    """An append to the log that takes longer is told as a slow disk."""
    build_commit: str = Field(default="", max_length=64, pattern=r"^[0-9A-Za-z._-]*$")
    """Which commit was built, for ``dougdb_build_info``; an image sets it."""
    tracing_enabled: bool = False
    """Whether requests whose caller samples them are traced with OpenTelemetry. It needs the extra ``tracing``."""
    tracing_endpoint: str = Field(default="", pattern=r"^(https?://\S+)?$")
    """The collector's URL for traces, OTLP over HTTP: ``http://collector:4318/v1/traces``. When empty, what the
    standard ``OTEL_EXPORTER_OTLP_ENDPOINT`` says; that variable alone turns nothing on."""
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    stop_on_stdin_eof: bool = False
    """Stop when standard input ends: whoever started this node has died."""

    @field_validator("client_listen", "peer_listen", "admin_listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        parse_address(value)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.election_timeout_ms < 2 * self.heartbeat_ms:
            raise ValueError("election_timeout_ms must be at least twice heartbeat_ms")
        if self.election_timeout_max_ms <= self.election_timeout_ms:
            raise ValueError("election_timeout_max_ms must be greater than election_timeout_ms")
        if self.log_bytes_max < self.log_keep_bytes:
            raise ValueError("log_bytes_max must be at least log_keep_bytes")
        if self.leader_lease_enabled and self.lease_ticks < 1:
            raise ValueError("leader_lease_margin_ms leaves no lease: it must be two ticks below election_timeout_ms")
        if self.guarded and self.tls_mode != "mutual":
            raise ValueError("auth_mode needs tls_mode mutual, by which facades and nodes are told from others")
        if self.tls_mode == "mutual":
            for name in ("tls_cert_file", "tls_key_file", "tls_ca_file"):
                if not getattr(self, name):
                    raise ValueError(f"DOUGDB_{name.upper()} is needed with DOUGDB_TLS_MODE=mutual")
        if self.node_id not in self.peer_addresses:
            raise ValueError(f"peers does not name this node, {self.node_id}")
        if self.shard_id >= self.initial_shards:
            raise ValueError("shard_id must be less than initial_shards")
        if self.shard_id > 0 and not self.seed_addresses:
            raise ValueError("seeds must name shard 0's Raft addresses for any other shard")
        return self

    @property
    def lease_ticks(self) -> int:
        """How long a leader's lease lasts, if there are any.

        A voter counts in ticks, so its promise may be short by almost one; the margin comes on top of that.
        """
        margin_ticks = -(-self.leader_lease_margin_ms // self.tick_ms)
        return self.election_timeout_ms // self.tick_ms - 1 - margin_ticks

    @property
    def token_limits(self) -> tuple[int, int, int]:
        """Of idempotency keys: how long they are kept, in microseconds, how many, and in how many bytes."""
        return self.idempotency_kept_ms * 1000, self.idempotency_keys_max, self.idempotency_bytes_max

    @property
    def guarded(self) -> bool:
        """Whether clients have to say who they are."""
        return self.auth_mode != "none"

    @property
    def trusted_names(self) -> tuple[str, ...]:
        """The names of those who may call Doug and Admin then."""
        facades = (name.strip() for name in self.auth_facade_names.split(","))
        return (*filter(None, facades), self.node_id, *self.peer_addresses)

    @property
    def peer_addresses(self) -> dict[str, str]:
        """Raft addresses by node name."""
        result: dict[str, str] = {}
        for item in filter(None, (part.strip() for part in self.peers.split(","))):
            name, _, address = item.partition("=")
            parse_address(address)
            if name in result:
                raise ValueError(f"peers names {name} twice")
            result[name] = address
        return result

    @property
    def seed_addresses(self) -> list[str]:
        """Raft addresses of shard 0."""
        seeds = [part.strip() for part in self.seeds.split(",") if part.strip()]
        for address in seeds:
            parse_address(address)
        return seeds

    @property
    def client_address(self) -> str:
        """The Doug address that others are told."""
        return self.client_advertise or self.client_listen

    @property
    def admin_address(self) -> str:
        """The admin HTTP address that others are told: where it listens, or, for every address, where clients come."""
        host, port = parse_address(self.admin_listen)
        if not is_any_address(host):
            return self.admin_listen
        told = self.client_address.rpartition(":")[0]
        return f"{told}:{port}"


def load() -> NodeSettings:
    """Reads the settings from the environment.

    Raises:
        SettingsError: One is missing or wrong; the message names each.
    """
    try:
        return NodeSettings()  # type: ignore[call-arg]  # The environment gives the rest.
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            name = "DOUGDB_" + "_".join(str(part) for part in problem["loc"]).upper() if problem["loc"] else "settings"
            problems.append(f"{name}: {problem['msg']}")
        raise SettingsError("; ".join(problems)) from error
