"""Where the cluster's programs, files and addresses are. Must not touch the machine.

A cluster has one folder for each version of Kubernetes below ``DOUGDB_KUBERNETES`` (``~/.cache/dougdb-kubernetes``):
``bin`` and ``src`` are kept, ``state`` goes with the cluster. Within its namespaces ``state`` is found at ``STATE``,
whose path is short: Unix sockets lie in it, whose paths may have 107 bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KUBERNETES = "1.34.4"
DNS = "1.13.1"

RUN = Path("/run")
STATE = RUN / "kubernetes"
CONTAINERD = RUN / "containerd.sock"

NODE = "node-0"
ZONE = "zone-a"
NODE_ADDRESS = "10.200.0.1"
DNS_ADDRESS = "10.200.0.10"
METRICS_PORT = 4443
PODS = "10.244.0.0/24"
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
API_PORT = 6443
API = f"https://{NODE_ADDRESS}:{API_PORT}"
DOMAIN = "cluster.local"
GROUP = "dougdb-kubernetes"
"""The cgroup that holds every pod."""
PAUSE = "localhost/pause:1"


@dataclass(frozen=True, slots=True)
class Layout:
    """The folder of one version, and what may be chosen."""

    root: Path
    version: str
    dns_version: str
    dns_ttl_s: int
    patience: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Layout:
        """What the environment asks for.

        Args:
            environment: ``KUBERNETES_VERSION``, ``COREDNS_VERSION``, ``DNS_TTL`` (seconds for which an answer is kept,
                a no as well; kubeadm's clusters have 30), ``DOUGDB_PATIENCE`` (how many times slower than others this
                machine is; limits of time are so many times longer) and ``DOUGDB_KUBERNETES`` (the folder of all
                versions).

        Raises:
            ValueError: A version or a number is none.
        """
        version = environment.get("KUBERNETES_VERSION", KUBERNETES).removeprefix("v")
        parts = version.split(".")
        if len(parts) != 3 or parts[0] != "1" or not all(part.isdigit() for part in parts):
            raise ValueError(f"KUBERNETES_VERSION is {version!r}, not a version such as {KUBERNETES}")
        ttl = environment.get("DNS_TTL", "5")
        if not ttl.isdigit():
            raise ValueError(f"DNS_TTL is {ttl!r}, not a number of seconds")
        patience = environment.get("DOUGDB_PATIENCE", "1")
        if not patience.isdigit() or patience == "0":
            raise ValueError(f"DOUGDB_PATIENCE is {patience!r}, not a number from 1 on")
        cache = environment.get("DOUGDB_KUBERNETES", "") or str(Path.home() / ".cache" / "dougdb-kubernetes")
        dns_version = environment.get("COREDNS_VERSION", DNS).removeprefix("v")
        return cls(Path(cache).absolute() / version, version, dns_version, int(ttl), int(patience))

    @property
    def minor(self) -> int:
        """The 34 of 1.34.4."""
        return int(self.version.split(".")[1])

    @property
    def bin(self) -> Path:
        """The programs."""
        return self.root / "bin"

    @property
    def definitions(self) -> Path:
        """The definitions of the Gateway API's kinds, one in each file; missing where they could not be had."""
        return self.root / "gateway-api"

    @property
    def sources(self) -> Path:
        """The Go modules that the programs are built from."""
        return self.root / "src"

    @property
    def state(self) -> Path:
        """What a running cluster writes; removed with it, save the logs."""
        return self.root / "state"

    @property
    def logs(self) -> Path:
        """A file for each program; those of the last cluster stay."""
        return self.root / "logs"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.state / "conf" / "admin.kubeconfig"
