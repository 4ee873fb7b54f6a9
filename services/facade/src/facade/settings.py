"""The facade's settings: environment variables ``DOUGDB_*``, read once at start.

Must not know anything of the network. Invariants: (1) the object is frozen; (2) every field carries its unit in its
name and has bounds; (3) a
value that makes no sense is refused, never corrected.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "DOUGDB_"

_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?)*\.?"
)

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+")


class Address(NamedTuple):
    """A host and a port. An IPv6 host has no brackets here."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Reads ``host:port`` or ``[v6]:port``.

    Raises:
        ValueError: It is neither.
    """
    host, separator, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address needs brackets, as in [::1]:8080")
    if not separator or not host or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is not host:port")
    return Address(host, int(port))


def is_loopback(host: str) -> bool:
    """Whether this is an address of this machine that nobody else reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


AuthMode = Literal["none", "token", "mtls", "oidc"]


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    discovery: Literal["static", "dns", "kubernetes", "auto"] = "static"
    """Where the nodes' addresses come from: ``nodes``, the SRV records of ``dns_names``, or the Kubernetes API.

    ``auto`` takes kubernetes in a pod with a service account, else dns when there are names, else static.
    """

    dns_names: Mapping[int, str] = Field(default_factory=dict, validate_default=True)
    """The headless Service of each shard that gives its pods their names, as JSON: ``{"0": "dougdb-s0-peers.ns.svc"}``.

    Kubernetes discovery takes from it which names the certificates are made out to.
    """

    dns_refresh_ms: int = Field(default=5000, ge=1000, le=600_000)
    """How often the names are asked for; sooner when a node cannot be reached."""

    discovery_port_name: str = Field(default="client", pattern=r"^[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$")
    """The port of these Services where the nodes serve Doug."""

    kubernetes_namespace: str = Field(default="", max_length=63)
    """Where the EndpointSlices are; the pod's own namespace when empty."""

    kubernetes_selector: str = Field(default="dougdb.io/shard", min_length=1, max_length=1024)
    """Which EndpointSlices, by label. Each of them needs the label ``dougdb.io/shard`` with its shard's number."""

    nodes: Mapping[int, Mapping[str, str]] = Field(default_factory=dict, validate_default=True)
    """Doug addresses by shard and node id, as JSON: ``{"0": {"shard-0-0": "127.0.0.1:21001"}}``.

    Needed for static discovery; the others fall back to it.
    """

    listen: Annotated[tuple[Address, ...], NoDecode] = (Address("127.0.0.1", 8080), Address("::1", 8080))
    """Where HTTP is served: a comma list of host:port. An IPv6 address is left out where there is no IPv6."""

    shared_listen: Annotated[tuple[Address, ...], NoDecode] = ()
    """Where HTTP is served together with other facades of this machine, whose user is the same: a comma list of
    host:port. Linux spreads new connections over those that listen there, so a machine with several cores has one
    address. What is asked of one certain facade, its metrics and its health, is asked at ``listen``."""

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Names beside localhost, this machine's name and any address under which the facade may be asked: a comma list,
    where ``*.example.com`` is all names below one, and ``*`` is any. Other names are refused with 421."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose pages may use the facade, as browsers say them: ``https://app.example.com``, a comma list; ``*`` is
    any. None when empty."""

    tls_mode: Literal["", "disabled", "mutual"] = ""
    """``mutual``: TLS with certificates on both ends. ``disabled``: plaintext, also beyond this machine. Empty:
    plaintext on loopback, and no start with anything else."""

    tls_cert_file: str = Field(default="", validate_default=True)
    """The certificate with its chain, as PEM."""

    tls_key_file: str = Field(default="", validate_default=True)
    """Its key."""

    tls_ca_file: str = Field(default="", validate_default=True)
    """The authority that signs the certificates of all nodes and facades."""

    tls_reload_ms: int = Field(default=5000, ge=100, le=3_600_000)
    """How often these files are looked at; new ones count for new connections."""

    http_tls: Literal["", "off"] = ""
    """``off``: clients are served in plaintext, whatever is spoken to the nodes: on loopback, or behind a proxy that
    ends TLS. Empty: HTTPS if there are certificates."""

    auth_mode: Annotated[tuple[AuthMode, ...], NoDecode] = ("none",)
    """How clients say who they are: ``none``, or one or several of ``token``, ``mtls`` and ``oidc``, a comma list.
    Everything but ``none`` needs ``DOUGDB_TLS_MODE=mutual`` between facades and nodes."""

    auth_bootstrap_file: str = ""
    """A file with a token that may do everything, for setting up the first users; read anew when it changes."""

    auth_client_ca_file: str = ""
    """The authority that signs the certificates of clients, for ``mtls``; never the one of nodes and facades."""

    auth_session_ms: int = Field(default=28_800_000, ge=1000, le=2_592_000_000)
    """How long a browser that has signed in stays so; never longer than its token counts."""

    auth_session_key_file: str = ""
    """A file with at least 32 random bytes that signs the sessions of browsers, the same for all facades behind one
    address. Empty: a key of this process, with which its sessions end."""

    auth_poll_ms: int = Field(default=500, ge=50, le=1500)
    """How often shard 0 is asked who may do what; a revoked token counts no longer than that, and a moment."""

    auth_stale_ms: int = Field(default=300_000, ge=1000, le=86_400_000)
    """How long what shard 0 said last counts while it does not answer; afterwards nobody may do anything (503)."""

    auth_oidc_issuer: str = ""
    """Who issues JWTs: the claim ``iss``."""

    auth_oidc_audience: str = ""
    """The audience that JWTs must name: the claim ``aud``."""

    auth_oidc_jwks: str = ""
    """Where the issuer's keys are: an https URL or a file, as a JSON Web Key Set; read anew every minute, and when a
    key is not known."""

    auth_oidc_jwks_ca_file: str = ""
    """The authority that signs the certificate of that URL, as PEM; the system's authorities when empty."""

    auth_oidc_claim: str = Field(default="sub", min_length=1, max_length=64)
    """The claim that names the principal: ``oidc:VALUE``."""

    auth_oidc_groups_claim: str = Field(default="groups", min_length=1, max_length=64)
    """The claim that lists groups: ``group:VALUE``."""

    audit_file: str = ""
    """Where refused requests, operators' actions and changes of users are written as lines of JSON; the log when
    empty."""

    facade_id: str = Field(default="facade", min_length=1, max_length=253)
    """This facade's name, in logs and in /v1/version."""

    request_timeout_ms: int = Field(default=5000, ge=10, le=600_000)
    """How long a key request may take once its body is here; afterwards it is answered with 503 or 504."""

    scan_count_timeout_ms: int = Field(default=60_000, ge=100, le=3_600_000)
    """How long counting the keys of a range may take; afterwards it is answered with 504."""

    scan_idle_ms: int = Field(default=30_000, ge=100, le=3_600_000)
    """How long a client that is being sent a stream of entries may take nothing; then its connection ends."""

    scans_max: int = Field(default=32, ge=1, le=1024)
    """Requests for ranges that are answered at the same time; further ones are refused with 503."""

    client_scans_max: int = Field(default=0, ge=0, le=1024)
    """Those of one client; further ones are 429. A client is a principal, or an address with ``DOUGDB_AUTH_MODE=none``.
    0 is three quarters of ``scans_max``, so that others find some."""

    address_scans_max: int = Field(default=0, ge=0, le=1024)
    """Those of one address; further ones are 429. 0 is any number, since a proxy has one address for many clients."""

    watches_max: int = Field(default=10_000, ge=1, le=1_000_000)
    """Watches that are open at the same time, and as many long polls; further ones are refused with 503."""

    client_watches_max: int = Field(default=0, ge=0, le=1_000_000)
    """Watches of one client, and as many long polls; further ones are 429. 0 is three quarters of ``watches_max``."""

    address_watches_max: int = Field(default=0, ge=0, le=1_000_000)
    """Those of one address; further ones are 429. 0 is any number."""

    watch_ring_bytes: int = Field(default=8 << 20, ge=1 << 16, le=1 << 30)
    """Newest changes of each watched shard that are kept in memory for watches that fall behind a little."""

    watch_catch_ups_max: int = Field(default=32, ge=1, le=1024)
    """Watches that read older changes from the nodes at the same time; further ones wait for their turn."""

    body_timeout_ms: int = Field(default=30_000, ge=10, le=600_000)
    """How long the body of a request may take to arrive (408), so that a slow sender holds nothing for ever."""

    head_timeout_ms: int = Field(default=10_000, ge=10, le=600_000)
    """How long the head of a request may take to arrive; the connection is closed afterwards."""

    pipe_window_batches: int = Field(default=1, ge=1, le=64)
    """Batches of one kind in flight to one node. One is fastest nearby; a longer round trip wants more."""

    pipe_gather_us: int = Field(default=1000, ge=0, le=100_000)
    """For how long a batch waits for the clients that the one before it answered; see ``facade.client.link``. 0 never
    waits, and many clients run as two half batches in turn. The event loop's clock has a millisecond's resolution."""

    inflight_items_max: int = Field(default=4096, ge=1, le=1_000_000)
    """Unanswered items of one kind on one link: windows open after 50 ms, and this bounds what may pile up."""

    queue_items_max: int = Field(default=16_384, ge=1, le=10_000_000)
    """Requests of one shard that wait or are in flight; further ones are refused with 503."""

    queue_bytes_max: int = Field(default=64 << 20, ge=2 << 20)
    """Their bytes, and the bytes of bodies being received; further ones are refused with 503."""

    fair_window_items: int = Field(default=256, ge=0, le=1_000_000)
    """Requests of one shard that are passed on without a turn once there are two clients or more; those beyond it wait
    in a line for each client, and the lines are served in turn. A client is a principal, or an address with
    ``DOUGDB_AUTH_MODE=none``. 0 serves all in the order in which they come."""

    client_bytes_max: int = Field(default=0, ge=0)
    """Bytes that one client may have under way in one shard; more are 429. 0 is its part of ``queue_bytes_max`` alone:
    all of it while it is the only one, and an equal part with others once half is taken."""

    client_requests_per_s: int = Field(default=0, ge=0, le=10_000_000)
    """Requests of keys a second that each principal may send to this facade, and as many at once; more are 429. 0 is
    any number."""

    address_requests_per_s: int = Field(default=0, ge=0, le=10_000_000)
    """The same for each address."""

    address_connections_max: int = Field(default=0, ge=0, le=1_000_000)
    """Connections that each address may have at a time; further ones are answered with 429 and closed. 0 is any
    number."""

    connections_max: int = Field(default=0, ge=0, le=1_000_000)
    """Connections of clients at a time; further ones are answered with 503 and closed. 0 is as many as the process may
    have descriptors, less a reserve."""

    unread_bytes_max: int = Field(default=64 << 20, ge=1 << 20)
    """Bytes of answers that clients have not taken; beyond, reads are refused with 503 before anything is read."""

    write_timeout_ms: int = Field(default=30_000, ge=100, le=600_000)
    """In this time a client takes at least ``rate_min_bytes`` a second of what waits for it, or is cut off."""

    rate_min_bytes: int = Field(default=1024, ge=1, le=1 << 20)
    """Bytes a second that a client sends of a body, and takes of an answer, at least."""

    zone: str = Field(default="", max_length=253)
    """Where this facade runs, as the nodes' ``DOUGDB_ZONE`` calls it: reads that any replica may serve stay there if
    they can."""

    spread_reads_items: int = Field(default=1024, ge=1, le=10_000_000)
    """When so many linearizable reads wait for a shard's leader, followers serve some of them: they ask the leader for
    one index, for all together."""

    server_timing_enabled: bool = True
    """Whether answers say where their time went, in the header ``Server-Timing``."""

    hedge_reads_ms: int = Field(default=0, ge=0, le=10_000)
    """An eventual read that has taken so long is sent to a second replica, too, and the first answer counts; looked at
    every 25 ms. 0 never does."""

    hedge_reads_percent: float = Field(default=5.0, gt=0, le=50)
    """Such copies are at most so many of a hundred eventual reads."""

    console_enabled: bool = True
    """Whether the console is served at /ui/, with what it needs at /v1/console/."""

    dev_socket: str = ""
    """Where the supervisor of ``dougctl dev`` listens, which sets it: the console then offers to kill and pause nodes.
    Only where nothing but loopback is listened on."""

    backups_max: int = Field(default=2, ge=1, le=64)
    """Backups that are sent at a time; further ones are refused with 503."""

    build_commit: str = Field(default="", max_length=64, pattern=r"^[0-9A-Za-z._-]*$")
    """Which commit was built, for ``dougdb_build_info``; an image sets it."""

    tracing_enabled: bool = False
    """Whether sampled requests are traced with OpenTelemetry. It needs the extra ``tracing``."""

    tracing_endpoint: str = Field(default="", pattern=r"^(https?://\S+)?$")
    """The collector's URL for traces, OTLP over HTTP: ``http://collector:4318/v1/traces``. When empty, what the
    standard ``OTEL_EXPORTER_OTLP_ENDPOINT`` says; that variable alone turns nothing on."""

    tracing_sample_ratio: float = Field(default=0.01, ge=0.0, le=1.0)
    """Which part of the requests that come without a ``traceparent`` is traced. A caller's decision goes before it."""

    log_format: Literal["console", "json"] = "console"
    """Lines for people or for machines."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged at all; a console shows warnings and leader changes of that."""

    stop_on_stdin_eof: bool = False
    """Stop in order when stdin ends: the process that started this one has died."""

    @field_validator("listen", "shared_listen", mode="before")
    @classmethod
    def _parse_listen(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        addresses = tuple(parse_address(part) for part in value.split(",") if part.strip())
        if not addresses and info.field_name == "listen":
            raise ValueError("no address is given")
        return addresses

    @field_validator("auth_mode", mode="before")
    @classmethod
    def _parse_modes(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        modes = tuple(part.strip() for part in value.split(",") if part.strip())
        if not modes or ("none" in modes and len(modes) > 1):
            raise ValueError("it is none, or one or several of token, mtls and oidc")
        return modes

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Everywhere that HTTP is served."""
        return *self.listen, *self.shared_listen

    @property
    def guarded(self) -> bool:
        """Whether clients have to say who they are."""
        return self.auth_mode != ("none",)

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _parse_hosts(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        names = tuple(part.strip() for part in value.split(",") if part.strip())
        for name in names:
            if name != "*" and not _HOST_NAME.fullmatch(name.removeprefix("*.")):
                raise ValueError(f"{name!r} is no host name; ports and schemes do not belong here")
        return names

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _parse_origins(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        origins = tuple(part.strip() for part in value.split(",") if part.strip())
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin such as https://app.example.com")
        return origins

    @field_validator("dev_socket")
    @classmethod
    def _check_dev_socket(cls, value: str, info: ValidationInfo) -> str:
        addresses: tuple[Address, ...] = (*info.data.get("listen", ()), *info.data.get("shared_listen", ()))
        if value and not all(each.host == "localhost" or is_loopback(each.host) for each in addresses):
            raise ValueError("it is for a facade that listens on loopback alone")
        return value

    @field_validator("tls_cert_file", "tls_key_file", "tls_ca_file")
    @classmethod
    def _check_tls(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.data.get("tls_mode") == "mutual":
            raise ValueError("it is needed with DOUGDB_TLS_MODE=mutual")
        return value

    @field_validator("dns_names")
    @classmethod
    def _check_names(cls, value: Mapping[int, str], info: ValidationInfo) -> Mapping[int, str]:
        if not value and info.data.get("discovery") == "dns":
            raise ValueError("it is needed for discovery by DNS")
        if value and 0 not in value:
            raise ValueError("shard 0, which holds the partition map, is missing")
        for shard, name in value.items():
            if shard < 0 or not _HOST_NAME.fullmatch(name):
                raise ValueError(f"shard {shard} has a negative number, or {name!r} is no DNS name")
        return value

    @field_validator("nodes")
    @classmethod
    def _check_nodes(
        cls, value: Mapping[int, Mapping[str, str]], info: ValidationInfo
    ) -> Mapping[int, Mapping[str, str]]:
        if not value and info.data.get("discovery", "static") != "static":
            return value
        if not value:
            raise ValueError("it is needed for static discovery")
        if 0 not in value:
            raise ValueError("shard 0, which holds the partition map, is missing")
        seen: set[str] = set()
        for shard, nodes in value.items():
            if shard < 0 or not nodes:
                raise ValueError(f"shard {shard} has no nodes or a negative number")
            for node_id, address in nodes.items():
                if not node_id or node_id in seen:
                    raise ValueError(f"node id {node_id!r} is empty or used twice")
                seen.add(node_id)
                parse_address(address)
        return value
