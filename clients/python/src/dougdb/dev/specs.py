"""The command line and the environment of each process of a local cluster. Pure functions."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dougdb.dev.certificates import FACADE_NAME, Access
from dougdb.dev.layout import DataDirectory
from dougdb.dev.ports import PortPlan, facade_id, join

CA_FILE = "ca.crt"
# Everything is on loopback, where no proxy can help.
_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "ftp_proxy"}
# The client's token is not for servers.
_SECRETS = {"dougdb_token"}
# glibc keeps freed memory in an arena per thread; ten nodes on one machine cannot afford it. And it gives each block of
# more than 128 KiB a mapping of its own: for values of a megabyte most of the time went into page faults (200 of them
# took 18 s, and 5 s with these two). The user's settings win.
_MALLOC = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
}


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One process to be started.

    Attributes:
        id: The node's or facade's name.
        argv: The command line.
        environment: The whole environment.
        directories: What must exist before it starts.
    """

    id: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directories: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """The user's options beside layout and ports."""

    log_level: str
    node_environment: Mapping[str, str]
    tls: Path | None = None
    """The folder of tls.crt, tls.key and ca.crt, as ``make certs`` writes them; None: plaintext."""
    auth: bool = False
    """Whether clients have to authenticate themselves."""
    access: Access | None = None
    """The certificates and secrets for ``auth``; None before they are made, and without ``auth``."""
    controls: Path | None = None
    """The Unix socket at which the supervisor takes the console's requests to bring faults upon nodes; None: none."""


def node_specs(plan: PortPlan, data: DataDirectory, inherited: Mapping[str, str], options: Options) -> list[ChildSpec]:
    """The nodes of all shards."""
    layout = plan.layout
    seeds = ",".join(join(plan.host, plan.node(0, index).peer) for index in range(layout.nodes))
    specs = []
    for shard, index in layout.places():
        name, ports = layout.node_id(shard, index), plan.node(shard, index)
        peers = ",".join(
            f"{layout.node_id(shard, i)}={join(plan.host, plan.node(shard, i).peer)}" for i in range(layout.nodes)
        )
        wal, files = data.root / name / "wal", data.root / name / "data"
        environment = {
            **_common(inherited, options, name),
            **_node_access(options),
            "DOUGDB_NODE_ID": name,
            "DOUGDB_SHARD_ID": str(shard),
            "DOUGDB_INITIAL_SHARDS": str(layout.shards),
            "DOUGDB_PEERS": peers,
            "DOUGDB_SEEDS": seeds,
            "DOUGDB_WAL_DIR": str(wal),
            "DOUGDB_DATA_DIR": str(files),
            "DOUGDB_CLIENT_LISTEN": join(plan.host, ports.client),
            "DOUGDB_PEER_LISTEN": join(plan.host, ports.peer),
            "DOUGDB_ADMIN_LISTEN": join(plan.host, ports.admin),
            **({} if options.controls is None else {"DOUGDB_DEV_FAULTS": "true"}),
            **options.node_environment,
        }
        specs.append(ChildSpec(name, _module("raft_node"), environment, (wal, files)))
    return specs


def facade_specs(
    plan: PortPlan, data: DataDirectory, hosts: list[str], inherited: Mapping[str, str], options: Options
) -> list[ChildSpec]:
    """The facades."""
    layout = plan.layout
    nodes: dict[str, dict[str, str]] = {}
    for shard, index in layout.places():
        address = join(plan.host, plan.node(shard, index).client)
        nodes.setdefault(str(shard), {})[layout.node_id(shard, index)] = address
    specs = []
    for number in range(plan.facades):
        name, port = facade_id(number), plan.facade(number)
        environment = {
            **_common(inherited, options, name),
            **_facade_access(options, data, name),
            **({} if options.controls is None else {"DOUGDB_DEV_SOCKET": str(options.controls)}),
            "DOUGDB_FACADE_ID": name,
            "DOUGDB_NODES": json.dumps(nodes),
            "DOUGDB_LISTEN": ",".join(join(host, port) for host in hosts),
        }
        if plan.shared_port is not None:
            environment["DOUGDB_SHARED_LISTEN"] = ",".join(join(host, plan.shared_port) for host in hosts)
        specs.append(ChildSpec(name, _module("facade"), environment))
    return specs


def _common(inherited: Mapping[str, str], options: Options, name: str) -> dict[str, str]:
    left_out = _PROXIES | _SECRETS
    kept = {variable: value for variable, value in inherited.items() if variable.lower() not in left_out}
    return {
        **_MALLOC,
        **kept,
        "DOUGDB_LOG_FORMAT": "json",
        "DOUGDB_LOG_LEVEL": options.log_level,
        "DOUGDB_STOP_ON_STDIN_EOF": "true",
        **_tls(options if options.access is None else replace(options, tls=options.access.tls / name)),
    }


def _node_access(options: Options) -> dict[str, str]:
    if options.access is None:
        return {}
    return {"DOUGDB_AUTH_MODE": "token", "DOUGDB_AUTH_FACADE_NAMES": FACADE_NAME}


def _facade_access(options: Options, data: DataDirectory, name: str) -> dict[str, str]:
    if options.access is None:
        return {}
    return {
        "DOUGDB_AUTH_MODE": "token",
        "DOUGDB_AUTH_BOOTSTRAP_FILE": str(options.access.token),
        "DOUGDB_AUTH_SESSION_KEY_FILE": str(options.access.session_key),
        "DOUGDB_AUDIT_FILE": str(data.run / f"{name}.audit.jsonl"),
        # The facade listens on loopback alone, and in plaintext curl needs no authority.
        "DOUGDB_HTTP_TLS": "off",
    }


def _tls(options: Options) -> dict[str, str]:
    if options.tls is None:
        return {}
    return {
        "DOUGDB_TLS_MODE": "mutual",
        "DOUGDB_TLS_CERT_FILE": str(options.tls / "tls.crt"),
        "DOUGDB_TLS_KEY_FILE": str(options.tls / "tls.key"),
        "DOUGDB_TLS_CA_FILE": str(options.tls / CA_FILE),
    }


def _module(name: str) -> tuple[str, ...]:
    # -P: a file in the user's current directory must not take the place of a module.
    return (sys.executable, "-P", "-m", name)
