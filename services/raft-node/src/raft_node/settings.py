"""The settings of a raft-node: environment variables with the prefix ``DOUGDB_``, one model, checked at start.

The unit of a number is the end of its name (``_ms``, ``_bytes``). The Raft core gets a plain ``RaftConfig`` made of
them.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from doug_wire.auth.issuer import Issuer
from raft_node.errors import SettingsError

_ADDRESS = re.compile(r"^(?P<host>\[[0-9a-fA-F:.%]+\]|[^:\[\]\s]+):(?P<port>\d{1,5})$")


def parse_address(address: str) -> tuple[str, int]:
    """Splits ``host:port`` or ``[host]:port`` into the host, without brackets, and the port.

    Raises:
        ValueError: The text has neither form, or the port is beyond 65535.
    """
    match = _ADDRESS.match(address)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(f"{address!r} is not host:port")
    return match["host"].strip("[]"), int(match["port"])


def is_any_address(host: str) -> bool:
    """Whether a host stands for all addresses of a machine (``0.0.0.0``, ``::``), to which nobody can connect."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class NodeSettings(BaseSettings):
    """All settings of one node. Frozen; ``DOUGDB_*`` variables that are not listed here are ignored."""

    model_config = SettingsConfigDict(env_prefix="DOUGDB_", frozen=True, extra="ignore")

    node_id: str = Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
    """The node's name; in Kubernetes the name of its pod. It never changes."""
    shard_id: int = Field(ge=0, le=1023)
    """The number of the shard of which this node is a replica."""
    initial_shards: int = Field(default=1, ge=1, le=1024)
    """How many shards a new cluster has at its first start. Read only when a shard is created."""
    peers: str
    """Members of this shard with their Raft addresses: ``name=host:port,...``, this node among them.

    At the first start of the shard these nodes become its members. Later a joining node asks them for the members, and
    an address given here replaces the one with which a member was admitted.
    """
    seeds: str = ""
    """Raft addresses of shard 0, ``host:port,...``. A node of another shard asks them for the cluster's id at its first
    start; empty only in shard 0."""
    wal_dir: str = Field(min_length=1)
    """The folder of the write-ahead log; in Kubernetes a volume of its own."""
    data_dir: str = Field(min_length=1)
    """The folder of the SSTables and of everything else that is not the log."""

    zone: str = Field(default="", max_length=253)
    """The zone in which the node runs. A facade with the same ``DOUGDB_ZONE`` prefers this node for reads that any
    replica may serve. Empty: no zone."""

    client_listen: str = "127.0.0.1:21000"
    """The ``host:port`` at which the gRPC services Doug and Admin listen."""
    peer_listen: str = "127.0.0.1:21001"
    """The ``host:port`` at which the gRPC service Raft listens."""
    admin_listen: str = "127.0.0.1:21002"
    """The ``host:port`` at which /metrics, /livez, /readyz and /startupz are served over HTTP."""
    client_advertise: str = ""
    """The Doug address that the node tells to others; empty: ``client_listen``."""

    tls_mode: Literal["", "disabled", "mutual"] = ""
    """``mutual``: TLS with certificates on both ends. ``disabled``: plaintext, also beyond this machine. Empty:
    plaintext, and the node starts only if all its addresses are on loopback."""
    tls_cert_file: str = ""
    """The file of this node's certificate with its chain, as PEM."""
    tls_key_file: str = ""
    """The file of the certificate's private key, as PEM."""
    tls_ca_file: str = ""
    """The file with the certificate of the authority that signs those of all nodes and facades, as PEM."""
    tls_reload_ms: int = Field(default=5000, ge=100, le=3_600_000)
    """How often the three files are checked for changes; changed ones are used for new connections."""

    auth_mode: str = Field(default="none", pattern=r"^(none|(token|mtls|oidc)( *, *(token|mtls|oidc))*)$")
    """The same value as the facades have. With any mode but ``none``, ``tls_mode`` must be ``mutual``, and only facades
    and nodes may call Doug and Admin; with ``token`` also clients that show a token of ours, with ``mtls`` those with
    a certificate of ``tls_ca_file`` whose name is a principal, and with ``oidc`` those that show a JWT of the issuer
    below, as far as the principal may."""
    auth_oidc_issuer: str = ""
    """The issuer of the JWTs that count at this node, ``iss``; with ``oidc``, all of these settings as the facades have
    them, or none, so that JWTs count at facades alone."""
    auth_oidc_audience: str = ""
    """The audience that a JWT must name: the claim ``aud``."""
    auth_oidc_jwks: str = ""
    """The https URL or the file of the issuer's keys, a JSON Web Key Set. It is read again every minute, and when a JWT
    names a key that is not known."""
    auth_oidc_jwks_ca_file: str = ""
    """The file with the authority that signs the certificate of that URL, as PEM. Empty: the system's authorities."""
    auth_oidc_claim: str = Field(default="sub", min_length=1, max_length=64)
    """The claim of a JWT whose value names the principal: ``oidc:VALUE``."""
    auth_oidc_groups_claim: str = Field(default="groups", min_length=1, max_length=64)
    """The claim of a JWT that lists the principal's groups: ``group:VALUE`` for each."""
    auth_facade_names: str = "dougdb-facade"
    """The names in certificates, a comma list, by which a caller is recognized as a facade. Nodes are recognized by the
    names in ``peers``."""
    client_requests_per_s: int = Field(default=0, ge=0, le=10_000_000)
    """How many operations of Doug per second each principal that calls this node itself may ask for, and how many at
    once; further calls are refused. 0: no limit. Facades have a setting of this name for their own clients."""
    address_requests_per_s: int = Field(default=0, ge=0, le=10_000_000)
    """The same for each address, facades' excepted, and for calls of whom nobody can tell who they are. 0: no limit."""

    tick_ms: int = Field(default=10, ge=1, le=1000)
    """How long a tick lasts; the Raft core counts all time in ticks."""
    election_timeout_ms: int = Field(default=150, ge=10, le=60_000)
    """The shortest time without word from a leader after which a follower starts an election; 150 ms as in the
    paper."""
    election_timeout_max_ms: int = Field(default=300, ge=20, le=120_000)
    """The longest such time. Each timeout is drawn at random between the two, so that votes seldom split."""
    heartbeat_ms: int = Field(default=50, ge=1, le=30_000)
    """How often a leader without writes sends heartbeats: at least twice within the shortest election timeout."""
    leader_lease_enabled: bool = False
    """Whether a leader with a lease serves linearizable reads without asking the others (docs/raft.md, Leases).
    All nodes of a shard must have the same election timeout. A lease saves a round trip, but is safe only if all clocks
    run at nearly the same rate and go on while a machine is paused."""
    leader_lease_margin_ms: int = Field(default=50, ge=1, le=60_000)
    """How much shorter a lease is than the shortest election timeout, to allow for clocks that run at different
    rates."""
    replicate_window: int = Field(default=1, ge=1, le=64)
    """How many AppendEntries may be in flight to one follower. One is fastest in a local network: the entries that
    arrive while it is under way form the next one."""
    trail_ms: int = Field(default=20, ge=0, le=1000)
    """How long a leader gathers entries for the followers without which a majority answers in time. A commit never
    waits for them, and eventual reads and watches at them are as much later. Fewer messages cost less CPU. 0: everybody
    is sent everything at once. Always less than ``heartbeat_ms``."""
    replicate_bytes_max: int = Field(default=1 << 20, ge=1 << 16, le=4 << 20)
    """How many bytes one AppendEntries, or one entry, may have at most."""
    uncommitted_bytes_max: int = Field(default=32 << 20, ge=2 << 20)
    """How many bytes of proposals may wait for their commit; further proposals are refused as overload."""
    log_cache_bytes: int = Field(default=8 << 20, ge=1 << 16)
    """How many bytes of the newest log entries are kept in memory; older entries are read from disk."""

    memtable_bytes: int = Field(default=16 << 20, ge=1 << 12, le=1 << 30)
    """The size at which a memtable is made immutable and flushed. Two memtables and a flush must fit into the memory of
    a small container."""
    wal_segment_bytes: int = Field(default=8 << 20, ge=1 << 16, le=1 << 30)
    """The size of a log segment. A segment is filled with zeros before use, because overwriting syncs faster than
    growing."""
    block_cache_bytes: int = Field(default=16 << 20, ge=0)
    """How many bytes of decoded SSTable blocks are kept in memory."""
    compression: Literal["none", "lz4", "zstd"] = "lz4"
    """How blocks of SSTables are compressed; a block that would hardly shrink is stored as it is."""
    helpers: int = Field(default=0, ge=0, le=2)
    """How many helper processes flush and merge; with two a flush runs beside a merge. 0: two where the node may use at
    least three cores and 768 MiB, else one. The second is started when it is first needed."""
    idle_merge_ms: int = Field(default=5000, ge=0, le=86_400_000)
    """How long little must have been written before idle merges begin. They merge SSTables further than writes need,
    one merge in each such time, so that reads have fewer tables to search. 0: no idle merges."""

    reserve_bytes: int = Field(default=64 << 20, ge=0, le=1 << 40)
    """How much free space a volume must have for writes to be accepted. A file beside the data holds as much again; it
    is removed when the volume runs full, so that a compaction can still free space. 0: writes are refused only once the
    disk was full."""
    scrub_bytes_per_s: int = Field(default=4 << 20, ge=0, le=1 << 40)
    """How many bytes of SSTables per second the scrubber reads to check their checksums. 0: no scrubbing."""
    scrub_every_ms: int = Field(default=6 * 3_600_000, ge=1000, le=2_592_000_000)
    """How long the scrubber rests once it has checked all SSTables."""
    state_hash_every: int = Field(default=10_000, ge=0, le=1 << 32)
    """After how many log entries the leader lets all replicas compare a hash of their data. 0: never."""
    log_keep_bytes: int = Field(default=64 << 20, ge=1 << 16)
    """How many bytes of the log are kept for nodes that lag behind or restart, beyond those that this node itself
    needs."""
    log_bytes_max: int = Field(default=1 << 30, ge=1 << 16)
    """How many bytes of the log are kept at most for a node that is slow but answers; one that is further behind gets a
    snapshot."""
    snapshot_chunk_bytes: int = Field(default=256 << 10, ge=1 << 10, le=4 << 20)
    """How many bytes of a snapshot go into one message."""
    snapshot_timeout_ms: int = Field(default=30_000, ge=1000)
    """How long the receiver of a snapshot may neither take anything nor answer; the sender then gives up, and begins
    the snapshot again later."""
    idempotency_kept_ms: int = Field(default=86_400_000, ge=1000, le=31_622_400_000)
    """How long at least, in log time, the outcome of a write with an idempotency key is kept."""
    idempotency_keys_max: int = Field(default=1_000_000, ge=0, le=1 << 32)
    """How many such outcomes are kept at most. Further writes with an idempotency key are refused; no outcome is
    forgotten early."""
    idempotency_bytes_max: int = Field(default=256 << 20, ge=4 << 20, le=1 << 40)
    """How many bytes such outcomes may take with their results; beyond it, too, writes with an idempotency key are
    refused. The outcome of a plain write takes about 130 bytes. The leader puts these three settings into the log,
    where its own values count; so all nodes of a shard should have the same."""
    scans_max: int = Field(default=16, ge=1, le=1024)
    """How many scans may run at the same time; further ones are refused as overload. Each scan holds a copy of the
    memtable while writes go on."""
    scan_hold_ms: int = Field(default=120_000, ge=1000, le=86_400_000)
    """How long a scan may run, because it keeps files that merges have replaced. The caller goes on with a new scan
    behind the last key that it received."""
    scan_idle_ms: int = Field(default=30_000, ge=100, le=3_600_000)
    """How long the caller of a scan may take nothing from it; the scan then ends."""
    history_bytes_max: int = Field(default=64 << 20, ge=0, le=1 << 40)
    """How many bytes of changes are kept on disk for watches, beyond those in memory. 0: none."""
    history_age_ms: int = Field(default=24 * 3_600_000, ge=1000, le=31_622_400_000)
    """How long at most, in log time, a change is kept on disk for watches."""
    watches_max: int = Field(default=256, ge=1, le=65_536)
    """How many watches may be open on this node. A facade opens one for all its clients, and some for clients that
    catch up."""
    proposal_timeout_ms: int = Field(default=15_000, ge=100)
    """How long a proposal may wait for its result; its outcome is then reported as unknown, so that nothing waits for
    ever."""
    drain_timeout_ms: int = Field(default=3_000, ge=0, le=60_000)
    """How long a stop, or an operator's transfer of leadership, waits until another node leads."""
    stop_flush_timeout_ms: int = Field(default=2_000, ge=0, le=60_000)
    """How long a stop waits for the flush of the memtable, so that the next start has little to replay."""
    events_max: int = Field(default=4096, ge=16, le=65_536)
    """How many events the node keeps in memory for ``dougctl timeline``."""
    events_bytes_max: int = Field(default=1 << 20, ge=1 << 14, le=4 << 20)
    """About how many bytes these events may take; an answer with all of them fits into one gRPC message."""
    slow_append_ms: int = Field(default=100, ge=1, le=60_000)
    """An append to the log that takes longer than this is reported as a slow disk."""
    build_commit: str = Field(default="", max_length=64, pattern=r"^[0-9A-Za-z._-]*$")
    """The commit of which this program was built, for the metric ``dougdb_build_info``; images set it. Empty: not
    known."""
    tracing_enabled: bool = False
    """Whether requests that their caller samples are traced with OpenTelemetry. Needs the package's extra
    ``tracing``."""
    tracing_endpoint: str = Field(default="", pattern=r"^(https?://\S+)?$")
    """The collector's URL for traces, OTLP over HTTP: ``http://collector:4318/v1/traces``. Empty: the value of the
    standard variable ``OTEL_EXPORTER_OTLP_ENDPOINT``, which alone turns nothing on."""
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    stop_on_stdin_eof: bool = False
    """Whether the node stops when its standard input ends, because the process that started it has died."""
    dev_faults: bool = False
    """Whether lines on standard input may cut the node off from the others, and make its disk slow; ``dougctl dev``
    sets it. Only for nodes that listen on loopback alone."""

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
        if self.tls_mode == "mutual":
            for name in ("tls_cert_file", "tls_key_file", "tls_ca_file"):
                if not getattr(self, name):
                    raise ValueError(f"DOUGDB_{name.upper()} is needed with DOUGDB_TLS_MODE=mutual")
        if self.node_id not in self.peer_addresses:
            raise ValueError(f"peers does not name this node, {self.node_id}")
        if self.shard_id >= self.initial_shards:
            raise ValueError("shard_id must be less than initial_shards")
        if self.dev_faults and not (self.stop_on_stdin_eof and self._is_on_loopback):
            raise ValueError("dev_faults is for nodes of dougctl dev, which listen on loopback alone")
        if self.shard_id > 0 and not self.seed_addresses:
            raise ValueError("seeds must name shard 0's Raft addresses for any other shard")
        return self

    @model_validator(mode="after")
    def _tells_who_may_call(self) -> Self:
        if self.guarded and self.tls_mode != "mutual":
            raise ValueError("auth_mode needs tls_mode mutual, by which facades and nodes are told from others")
        if self.issuer.is_named and (mistake := self.issuer.mistake()) is not None:
            raise ValueError("DOUGDB_{}: {}".format(*mistake))
        return self

    @property
    def _is_on_loopback(self) -> bool:
        return all(
            is_loopback(parse_address(each)[0]) for each in (self.client_listen, self.peer_listen, self.admin_listen)
        )

    @property
    def lease_ticks(self) -> int:
        """How many ticks a leader's lease lasts, if leases are enabled.

        A voter counts in ticks, so the time for which it votes for nobody else may be short by almost one tick; the
        margin comes on top of that.
        """
        margin_ticks = -(-self.leader_lease_margin_ms // self.tick_ms)
        return self.election_timeout_ms // self.tick_ms - 1 - margin_ticks

    @property
    def token_limits(self) -> tuple[int, int, int]:
        """The limits of idempotency keys: how long they are kept, in microseconds; how many; how many bytes."""
        return self.idempotency_kept_ms * 1000, self.idempotency_keys_max, self.idempotency_bytes_max

    @property
    def guarded(self) -> bool:
        """Whether clients have to authenticate themselves."""
        return self.auth_mode != "none"

    @property
    def auth_modes(self) -> frozenset[str]:
        """What may prove who a client is; ``none`` alone if clients need not say so."""
        return frozenset(mode.strip() for mode in self.auth_mode.split(","))

    @property
    def issuer(self) -> Issuer:
        """The issuer of the JWTs that count here; it is not named where none do."""
        if "oidc" not in self.auth_modes:
            return Issuer()
        return Issuer(
            self.auth_oidc_issuer,
            self.auth_oidc_audience,
            self.auth_oidc_jwks,
            self.auth_oidc_jwks_ca_file,
            self.auth_oidc_claim,
            self.auth_oidc_groups_claim,
        )

    @property
    def trusted_names(self) -> tuple[str, ...]:
        """The names in certificates with which Doug and Admin may be called if ``guarded``: facades and members."""
        return (*self.facade_names, self.node_id, *self.peer_addresses)

    @property
    def facade_names(self) -> tuple[str, ...]:
        """The names in certificates of facades."""
        return tuple(filter(None, (name.strip() for name in self.auth_facade_names.split(","))))

    @property
    def peer_addresses(self) -> dict[str, str]:
        """The Raft address of each node in ``peers``, by the node's name.

        Raises:
            ValueError: An address has not the form ``host:port``, or a name is given twice.
        """
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
        """The Raft addresses in ``seeds``; empty if there are none.

        Raises:
            ValueError: An address has not the form ``host:port``.
        """
        seeds = [part.strip() for part in self.seeds.split(",") if part.strip()]
        for address in seeds:
            parse_address(address)
        return seeds

    @property
    def client_address(self) -> str:
        """The Doug address that the node tells to others."""
        return self.client_advertise or self.client_listen

    @property
    def admin_address(self) -> str:
        """The admin HTTP address that the node tells to others.

        It is ``admin_listen``; if that stands for all addresses of the machine, then the host of ``client_address``
        with its port.
        """
        host, port = parse_address(self.admin_listen)
        if not is_any_address(host):
            return self.admin_listen
        told = self.client_address.rpartition(":")[0]
        return f"{told}:{port}"


def load() -> NodeSettings:
    """Reads the settings from the environment.

    Raises:
        SettingsError: A setting is missing or wrong; the message names all of these.
    """
    try:
        return NodeSettings()  # type: ignore[call-arg]  # The environment gives the rest.
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            name = "DOUGDB_" + "_".join(str(part) for part in problem["loc"]).upper() if problem["loc"] else "settings"
            problems.append(f"{name}: {problem['msg']}")
        raise SettingsError("; ".join(problems)) from error
