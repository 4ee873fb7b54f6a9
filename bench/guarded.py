"""Two facades of one cluster, of which one knows who asks and what they may do: for ``make bench-ab ARGS=--auth``.

The cluster is ``dougctl dev --auth``. Both facades are started as its own one is, one of them with the mode ``none``;
nodes cannot tell them apart, and so whatever else a cluster does costs both the same. They hash alike, too, for how
strings fall into dictionaries makes a difference of some percent. It must not know what is measured.

Invariant: the facades end with the stack that they were started on.
"""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

import psutil

from bench.cluster import Cluster, ClusterError, wait_for
from bench.http11 import HttpError, Secure, fetch

ALLOWED = ("read:bench/", "write:bench/")
"""What the load's principal may do."""
READY_S = 60.0
FIRST_PORT = 5
"""The facades' ports are so far behind that of the cluster's own facade, in the block that was found free."""

Headers = tuple[tuple[str, str], ...]
"""What each request of a load carries besides."""


def show_token(cluster: Cluster) -> None:
    """Has the requests of the cluster's own methods carry its first token."""
    file = cluster.data / "run" / "bootstrap.token"
    # Asked from the start on, when the file is not there yet.
    cluster.proof = lambda: {"authorization": f"Bearer {file.read_text().strip()}"} if file.exists() else {}


def secure(cluster: Cluster) -> Secure:
    """How the HTTP ports of its nodes are asked."""
    authority = cluster.data / "run" / "tls" / "facade" / "ca.crt"
    return Secure(ssl.create_default_context(cafile=authority), "localhost")


def principal(cluster: Cluster) -> Headers:
    """Makes the load's principal and returns what its requests carry.

    Raises:
        ClusterError: The facade refused it.
    """
    wanted = json.dumps({"name": "bench", "allow": ALLOWED}).encode()
    answer = cluster.request("POST", "/v1/auth/tokens", wanted, {"content-type": "application/json"})
    if answer.status not in (200, 201):
        raise ClusterError(f"the load's token: {answer.status} {answer.body[:300]!r}")
    return (("authorization", f"Bearer {answer.json()['token']}"),)


def settings_of(inherited: Mapping[str, str], port: int, *, guarded: bool) -> dict[str, str]:
    """The environment of one of the facades, made of that of the cluster's own one."""
    own = {"DOUGDB_DEV_SOCKET", "DOUGDB_AUDIT_FILE", "DOUGDB_SHARED_LISTEN"}
    kept = {
        name: value
        for name, value in inherited.items()
        if name not in own and (guarded or not name.startswith("DOUGDB_AUTH_"))
    }
    return {**kept, "DOUGDB_LISTEN": f"127.0.0.1:{port}", "PYTHONHASHSEED": "0"}


def start_facade(cluster: Cluster, headers: Headers, stack: ExitStack, *, guarded: bool) -> tuple[str, psutil.Process]:
    """Starts one of the facades and waits until it serves; returns its address and its process.

    Raises:
        ClusterError: It did not serve in time.
    """
    port = cluster.port + FIRST_PORT + guarded
    launch = cluster.launch_of("facade")
    launch = replace(launch, environment=settings_of(launch.environment, port, guarded=guarded))
    process = launch.start(cluster.folder / f"facade-{port}.log")
    stack.callback(_end, process)

    def serves() -> bool:
        try:
            return fetch(port, "PUT", "/v1/kv/bench/first", b"1", dict(headers)).status == 200
        except HttpError:
            return False

    wait_for(serves, READY_S, f"the facade at port {port} to serve")
    return f"http://127.0.0.1:{port}", psutil.Process(process.pid)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
