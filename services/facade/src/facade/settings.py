"""The facade's settings: environment variables ``DOUGDB_*``, read once at start.

Must not know anything of the network. Invariants: (1) the object is frozen; (2) the name of a field ends with its unit,
and the field has bounds; (3) a value that makes no sense is refused, never corrected.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from doug_wire.auth.issuer import Issuer
from facade.errors import SettingsError

PREFIX = "DOUGDB_"

_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?)*\.?"
)

_MATCHERS = r'^([a-zA-Z_]+(=|!=|=~|!~)"[^"\\\n]{0,200}"(, ?[a-zA-Z_]+(=|!=|=~|!~)"[^"\\\n]{0,200}"){0,7})?$'
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
        ValueError: The text has neither form.
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
    """Whether a host is a loopback address, which only this machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


AuthMode = Literal["none", "token", "mtls", "oidc"]


class Settings(BaseSettings):
    """All settings of a facade."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    discovery: Literal["static", "dns", "kubernetes", "auto"] = "static"
    """Where the nodes' addresses come from: ``nodes``, the SRV records of ``dns_names``, or the Kubernetes API.

    ``auto`` is kubernetes in a pod with a service account, else dns if ``dns_names`` has names, else static.
    """

    dns_names: Mapping[int, str] = Field(default_factory=dict, validate_default=True)
    """The headless Service of each shard that gives its pods their names, as JSON: ``{"0": "dougdb-s0-peers.ns.svc"}``.

    Kubernetes discovery derives from it the names for which the nodes' certificates must be made out.
    """

    dns_refresh_ms: int = Field(default=5000, ge=1000, le=600_000)
    """How often the SRV records of ``dns_names`` are asked for; sooner when a node cannot be reached."""

    discovery_port_name: str = Field(default="client", pattern=r"^[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$")
    """The name of the port of these Services at which the nodes serve Doug."""

    kubernetes_namespace: str = Field(default="", max_length=63)
    """The namespace of the EndpointSlices. Empty: the pod's own namespace."""

    kubernetes_selector: str = Field(default="dougdb.io/shard", min_length=1, max_length=1024)
    """The label selector of the EndpointSlices. Each slice needs the label ``dougdb.io/shard`` with its shard's
    number."""

    nodes: Mapping[int, Mapping[str, str]] = Field(default_factory=dict, validate_default=True)
    """Doug addresses by shard and node id, as JSON: ``{"0": {"shard-0-0": "127.0.0.1:21000"}}``.

    Static discovery needs it; the other kinds of discovery use it until their source has answered for the first time.
    """

    listen: Annotated[tuple[Address, ...], NoDecode] = (Address("127.0.0.1", 8080), Address("::1", 8080))
    """The addresses at which HTTP is served: a comma list of host:port. An IPv6 address is left out on a machine
    without IPv6."""

    shared_listen: Annotated[tuple[Address, ...], NoDecode] = ()
    """The addresses that this facade shares with other facades of this machine that run as the same user: a comma list
    of host:port. Linux spreads new connections over the facades that listen there, so a machine with several cores has
    one address. The metrics and the health of one certain facade are asked for at its ``listen``. Empty: none."""

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """The host names, a comma list, under which clients may address the facade, beside localhost, this machine's name
    and any IP address. ``*.example.com`` stands for all names below example.com, and ``*`` for any name. A request for
    another name is refused with 421."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """The origins whose pages may use the facade (CORS), a comma list, each in the form that browsers send:
    ``https://app.example.com``. ``*`` stands for any origin. Empty: no other origin."""

    tls_mode: Literal["", "disabled", "mutual"] = ""
    """``mutual``: TLS with certificates on both ends. ``disabled``: plaintext, also beyond this machine. Empty:
    plaintext, and the facade starts only if all addresses are on loopback."""

    tls_cert_file: str = Field(default="", validate_default=True)
    """The file of the facade's certificate with its chain, as PEM."""

    tls_key_file: str = Field(default="", validate_default=True)
    """The file of the certificate's private key, as PEM."""

    tls_ca_file: str = Field(default="", validate_default=True)
    """The file with the certificate of the authority that signs those of all nodes and facades, as PEM."""

    tls_reload_ms: int = Field(default=5000, ge=100, le=3_600_000)
    """How often the three files are checked for changes; changed ones are used for new connections."""

    http_tls: Literal["", "off"] = ""
    """``off``: clients are served in plaintext, whatever ``tls_mode`` says of the nodes; for a facade on loopback or
    behind a proxy that ends TLS. Empty: clients are served by HTTPS if there are certificates."""

    auth_mode: Annotated[tuple[AuthMode, ...], NoDecode] = ("none",)
    """How clients authenticate themselves: ``none`` (not at all), or a comma list of one or several of ``token``,
    ``mtls`` and ``oidc``. Every mode but ``none`` needs ``DOUGDB_TLS_MODE=mutual`` between facades and nodes."""

    auth_bootstrap_file: str = ""
    """A file with a token that may do everything, for setting up the first users; read again when it changes. Empty: no
    such token."""

    auth_client_ca_file: str = ""
    """The file with the certificate of the authority that signs those of clients, for ``mtls``. It must be another
    authority than that of nodes and facades."""

    auth_session_ms: int = Field(default=28_800_000, ge=1000, le=2_592_000_000)
    """How long a browser stays signed in; never longer than the token with which it signed in is valid."""

    auth_session_key_file: str = ""
    """A file with at least 32 random bytes, the key that signs the sessions of browsers; the same for all facades
    behind one address. Empty: the process makes a key, and its sessions end with the process."""

    auth_poll_ms: int = Field(default=500, ge=50, le=1500)
    """How often shard 0 is asked for the document of users and grants. A revoked token is refused once this time, and
    the time of one call, has passed."""

    auth_stale_ms: int = Field(default=300_000, ge=1000, le=86_400_000)
    """How long the last document from shard 0 is used while shard 0 does not answer; after that every request is
    refused with 503."""

    auth_oidc_issuer: str = ""
    """The issuer of the JWTs that are accepted: the claim ``iss``."""

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

    audit_file: str = ""
    """The file to which refused requests, operators' actions and changes of users are written as lines of JSON. Empty:
    they go to the log."""

    facade_id: str = Field(default="facade", min_length=1, max_length=253)
    """This facade's name in logs and in /v1/version."""

    request_timeout_ms: int = Field(default=5000, ge=10, le=600_000)
    """How long a request of keys may take once its body has arrived; after that it is answered with 503 or 504."""

    scan_count_timeout_ms: int = Field(default=60_000, ge=100, le=3_600_000)
    """How long counting the keys of a range may take; after that it is answered with 504."""

    scan_idle_ms: int = Field(default=30_000, ge=100, le=3_600_000)
    """How long a client may take nothing from a stream of entries; after that its connection is closed."""

    scans_max: int = Field(default=32, ge=1, le=1024)
    """How many requests for ranges may run at the same time; further ones are refused with 503, a page after half of
    ``request_timeout_ms``."""

    client_scans_max: int = Field(default=0, ge=0, le=1024)
    """How many requests for ranges one client may have at the same time; further ones are refused with 429. A client is
    a principal, or an address with ``DOUGDB_AUTH_MODE=none``. 0: three quarters of ``scans_max``, so that some are left
    for others."""

    address_scans_max: int = Field(default=0, ge=0, le=1024)
    """How many requests for ranges one address may have at the same time; further ones are refused with 429. 0: no
    limit, since a proxy has one address for many clients."""

    watches_max: int = Field(default=10_000, ge=1, le=1_000_000)
    """How many watches may be open at the same time, and how many long polls; further ones are refused with 503."""

    client_watches_max: int = Field(default=0, ge=0, le=1_000_000)
    """How many watches one client may have open, and how many long polls; further ones are refused with 429. 0: three
    quarters of ``watches_max``."""

    address_watches_max: int = Field(default=0, ge=0, le=1_000_000)
    """How many watches one address may have open, and how many long polls; further ones are refused with 429. 0: no
    limit."""

    watch_ring_bytes: int = Field(default=8 << 20, ge=1 << 16, le=1 << 30)
    """How many bytes of the newest changes of each watched shard are kept in memory, for watches that fall behind a
    little."""

    watch_catch_ups_max: int = Field(default=32, ge=1, le=1024)
    """How many watches may read older changes from the nodes, or what is there at their beginning, at the same time;
    further ones wait for their turn. One client has three quarters of them at most."""

    body_timeout_ms: int = Field(default=30_000, ge=10, le=600_000)
    """How long the body of a request may take to arrive; after that the request is refused with 408, so that a slow
    sender holds nothing for ever."""

    head_timeout_ms: int = Field(default=10_000, ge=10, le=600_000)
    """How long the head of a request may take to arrive; after that the connection is closed."""

    pipe_window_batches: int = Field(default=1, ge=1, le=64)
    """How many batches of one kind (reads, writes) may be in flight to one node. One is fastest in a local network;
    longer round trips need more."""

    pipe_gather_us: int = Field(default=1000, ge=0, le=100_000)
    """How long a batch waits for the next requests of the clients that the batch before it answered, and after a large
    batch up to 8 times as long while they come; see ``facade.client.link``. 0: batches do not wait, and many clients
    then fall into two half batches that take turns.
    The event loop's clock has a resolution of a millisecond."""

    inflight_items_max: int = Field(default=4096, ge=1, le=1_000_000)
    """How many items of one kind may be unanswered on one link. A window of batches opens again after 50 ms without an
    answer; this setting limits how many items pile up then."""

    queue_items_max: int = Field(default=16_384, ge=1, le=10_000_000)
    """How many requests of one shard may wait or be in flight; further ones are refused with 503."""

    queue_wait_ms: int = Field(default=1000, ge=0, le=600_000)
    """How long requests of one shard may wait for its leader: once all are answered later than that, for as long, and
    1024 are under way, further ones are refused with 429, and with 503 where clients have no shares. 0: any time."""

    queue_bytes_max: int = Field(default=64 << 20, ge=2 << 20)
    """How many bytes the requests of one shard may have together, and how many bytes of bodies may be arriving; further
    requests are refused with 503."""

    fair_window_items: int = Field(default=256, ge=0, le=1_000_000)
    """How many requests of one shard are passed on at once when there are two clients or more. Further requests wait in
    one queue per client, and the queues are served in turn. A client is a principal, or an address with
    ``DOUGDB_AUTH_MODE=none``. 0: no turns; requests are passed on in the order of their arrival."""

    client_bytes_max: int = Field(default=0, ge=0)
    """How many bytes one client may have under way in one shard; further requests are refused with 429. 0: the client's
    share of ``queue_bytes_max``: all of it while there is no other client, and an equal share once half is taken."""

    client_requests_per_s: int = Field(default=0, ge=0, le=10_000_000)
    """How many requests of keys per second each principal may send to this facade, and how many at once; further ones
    are refused with 429. Each operation of a batch or transaction counts. 0: no limit."""

    address_requests_per_s: int = Field(default=0, ge=0, le=10_000_000)
    """The same for each address; of IPv6, for each network of 64 bits."""

    address_connections_max: int = Field(default=0, ge=0, le=1_000_000)
    """How many connections each address may have at the same time; further ones are answered with 429 and closed. 0: no
    limit."""

    connections_max: int = Field(default=0, ge=0, le=1_000_000)
    """How many connections of clients there may be at the same time; further ones are answered with 503 and closed. 0:
    the process's limit of file descriptors, less a reserve of 128."""

    unread_bytes_max: int = Field(default=64 << 20, ge=1 << 20)
    """How many bytes of answers may wait to be taken by clients; beyond it, reads are refused with 503 before any value
    is read."""

    write_timeout_ms: int = Field(default=30_000, ge=100, le=600_000)
    """The time over which a client must take at least ``rate_min_bytes`` per second of the answers that wait for it;
    otherwise its connection is closed."""

    rate_min_bytes: int = Field(default=1024, ge=1, le=1 << 20)
    """How many bytes per second a client must send of a body, and take of an answer, at least."""

    zone: str = Field(default="", max_length=253)
    """The zone in which this facade runs. For reads that any replica may serve it prefers nodes with the same
    ``DOUGDB_ZONE``. Empty: no zone."""

    spread_reads_items: int = Field(default=1024, ge=1, le=10_000_000)
    """How many linearizable reads must wait for a shard's leader before followers serve some of them. A follower then
    asks the leader for one read index for all of them together."""

    server_timing_enabled: bool = True
    """Whether answers carry the header ``Server-Timing``, which tells how long each part of the work took."""

    hedge_reads_ms: int = Field(default=0, ge=0, le=10_000)
    """How long an eventual read may take before it is sent to a second replica, too; the first answer is used. Checked
    every 25 ms. 0: never."""

    hedge_reads_percent: float = Field(default=5.0, gt=0, le=50)
    """How many of a hundred eventual reads may be sent to a second replica at most."""

    console_enabled: bool = True
    """Whether the console is served at /ui/, and its data at /v1/console/."""

    console_prometheus: str = Field(default="", pattern=r"^(https?://[^\s?#]+)?$")
    """The Prometheus that scrapes this cluster, ``http://prometheus:9090``; the console's graphs are taken from it.
    Empty: from the hour that the facade keeps itself."""

    console_prometheus_match: str = Field(default="", pattern=_MATCHERS)
    """The matchers that choose this cluster's series, if that Prometheus has those of others:
    ``namespace="dougdb"``."""

    dev_socket: str = ""
    """The Unix socket of the supervisor of ``dougctl dev``, which sets it; the console then offers to bring faults
    upon nodes. Allowed only if the facade listens on loopback alone. Empty: no supervisor."""

    backups_max: int = Field(default=2, ge=1, le=64)
    """How many backups may be sent at the same time; further ones are refused with 503."""

    build_commit: str = Field(default="", max_length=64, pattern=r"^[0-9A-Za-z._-]*$")
    """The commit of which this program was built, for the metric ``dougdb_build_info``; images set it. Empty: not
    known."""

    tracing_enabled: bool = False
    """Whether sampled requests are traced with OpenTelemetry. Needs the package's extra ``tracing``."""

    tracing_endpoint: str = Field(default="", pattern=r"^(https?://\S+)?$")
    """The collector's URL for traces, OTLP over HTTP: ``http://collector:4318/v1/traces``. Empty: the value of the
    standard variable ``OTEL_EXPORTER_OTLP_ENDPOINT``, which alone turns nothing on."""

    tracing_sample_ratio: float = Field(default=0.01, ge=0.0, le=1.0)
    """The fraction of the requests without a ``traceparent`` that is traced, from 0 to 1. For a request with a
    ``traceparent`` the caller decides."""

    log_format: Literal["console", "json"] = "console"
    """The form of log lines: ``console`` for people, ``json`` for machines."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged; the format ``console`` shows only warnings and changes of leaders of it."""

    stop_on_stdin_eof: bool = False
    """Whether the facade stops in order when its standard input ends, because the process that started it has died."""

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
        """All addresses at which HTTP is served: those of ``listen``, then those of ``shared_listen``."""
        return *self.listen, *self.shared_listen

    def issuer(self) -> Issuer:
        """The issuer of JWTs.

        Raises:
            SettingsError: The settings do not say whose count.
        """
        found = Issuer(
            self.auth_oidc_issuer,
            self.auth_oidc_audience,
            self.auth_oidc_jwks,
            self.auth_oidc_jwks_ca_file,
            self.auth_oidc_claim,
            self.auth_oidc_groups_claim,
        )
        if (mistake := found.mistake()) is not None:
            name, why = mistake
            raise SettingsError(PREFIX + name, why)
        return found

    @property
    def guarded(self) -> bool:
        """Whether clients have to authenticate themselves."""
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
