"""Assigns a port to each process, and checks that the ports are free.

Invariants:

1. The ports follow from the layout and the options alone, so that a second start uses the same ones.
2. Node ports lie below 32768, where Linux begins to assign ports to outgoing connections: no other process thus takes
   a node's port by chance while the node restarts.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from dougdb.dev.layout import Layout, RefusedError

NODE_PORT_END = 32768
PORTS_PER_NODE = 3
IPV4 = "127.0.0.1"
IPV6 = "::1"


@dataclass(frozen=True, slots=True)
class NodePorts:
    """The ports of one node."""

    client: int
    peer: int
    admin: int


@dataclass(frozen=True, slots=True)
class Listener:
    """One address that a process will listen on."""

    host: str
    port: int
    owner: str
    purpose: str


@dataclass(frozen=True, slots=True)
class PortPlan:
    """Every port of a local cluster."""

    layout: Layout
    base_port: int
    facade_port: int
    facades: int
    host: str = IPV4
    """The loopback address of the nodes."""
    shared_port: int | None = None
    """The port that all facades serve together; None if there is none."""

    def __post_init__(self) -> None:
        if self.base_port < 1024 or self.node_port_end > NODE_PORT_END:
            raise RefusedError(
                f"the nodes need ports {self.base_port}-{self.node_port_end - 1}; "
                f"they must lie in 1024-{NODE_PORT_END - 1} (--base-port)"
            )
        last = self.facade_port + self.facades - 1
        if not 1 <= self.facade_port <= last <= 65535:
            raise RefusedError(f"the facade's ports {self.facade_port}-{last} must lie in 1-65535 (--port)")
        if self.facade_port < self.node_port_end and last >= self.base_port:
            raise RefusedError(
                f"the facade's ports {self.facade_port}-{last} (--port) lie among the nodes' "
                f"{self.base_port}-{self.node_port_end - 1} (--base-port)"
            )
        shared = self.shared_port
        if shared is not None and (self.facade_port <= shared <= last or self.base_port <= shared < self.node_port_end):
            raise RefusedError(f"port {shared} (--shared-port) is one of a facade's or a node's own")

    @property
    def node_port_end(self) -> int:
        """The first port behind those of the nodes."""
        return self.base_port + PORTS_PER_NODE * self.layout.shards * self.layout.nodes

    def node(self, shard: int, index: int) -> NodePorts:
        """The ports of one node."""
        first = self.base_port + PORTS_PER_NODE * (shard * self.layout.nodes + index)
        return NodePorts(first, first + 1, first + 2)

    def facade(self, number: int) -> int:
        """The port of one facade."""
        assert 0 <= number < self.facades
        return self.facade_port + number

    def listeners(self, facade_hosts: list[str]) -> list[Listener]:
        """Every address at which a process will listen."""
        found = []
        for number in range(self.facades):
            found += [Listener(host, self.facade(number), facade_id(number), "HTTP") for host in facade_hosts]
        if self.shared_port is not None:
            found += [Listener(host, self.shared_port, facade_id(0), "shared HTTP") for host in facade_hosts]
        for shard, index in self.layout.places():
            ports, owner = self.node(shard, index), self.layout.node_id(shard, index)
            found += [
                Listener(self.host, ports.client, owner, "client"),
                Listener(self.host, ports.peer, owner, "peer"),
                Listener(self.host, ports.admin, owner, "admin"),
            ]
        return found


def facade_id(number: int) -> str:
    """The name of a facade: facade, facade-1, facade-2 and so on."""
    return f"facade-{number}" if number else "facade"


def join(host: str, port: int) -> str:
    """Joins a host and a port; an IPv6 address gets brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def loopback_hosts() -> list[str]:
    """The loopback addresses of this machine; some containers have no IPv6, some hosts only IPv6.

    Raises:
        RefusedError: The machine has no loopback address.
    """
    found = [host for host in (IPV4, IPV6) if _is_usable(host)]
    if not found:
        raise RefusedError(f"this machine has neither {IPV4} nor {IPV6}: its loopback interface is down")
    return found


def _is_usable(host: str) -> bool:
    try:
        with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def taken(listeners: list[Listener]) -> list[tuple[Listener, str]]:
    """The addresses at which no process can listen now, each with the reason."""
    found = []
    for listener in listeners:
        reason = _why_not(listener)
        if reason:
            found.append((listener, reason))
    return found


def _why_not(listener: Listener) -> str:
    with socket.socket(_family(listener.host), socket.SOCK_STREAM) as probe:
        # The servers set this option, too: old connections in TIME_WAIT do not keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listener.host, listener.port))
            probe.listen(1)
        except OSError as error:
            return "taken" if error.errno == errno.EADDRINUSE else f"not usable ({error.strerror})"
    return ""
