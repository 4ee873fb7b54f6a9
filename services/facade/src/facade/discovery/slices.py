"""EndpointSlices to targets: what Kubernetes says about the nodes' addresses, merged over all slices.

Sans-I/O: objects come in as the JSON that the API server sent, whether from a list or from a watch. What is not
understood is left out, because a field that a newer Kubernetes adds must not blind the facade.

Invariants: (1) a node is known by the name of its pod, never by its address; (2) after ``replace`` nothing is left of
what the list did not contain, because a watch never tells deletions that it missed.

Source: docs/kubernetes.md, Discovery; the EndpointSlice API, discovery.k8s.io/v1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from facade.discovery.targets import Target
from facade.settings import Address

SHARD_LABEL = "dougdb.io/shard"
SERVICE_LABEL = "kubernetes.io/service-name"


class Change(NamedTuple):
    """How many nodes a list or an event added, moved and removed."""

    added: int = 0
    changed: int = 0
    removed: int = 0


class _Found(NamedTuple):
    """One endpoint. Of several of one pod the largest counts.

    Attributes:
        alive: Whether the pod is not terminating: one that comes back may be listed twice for a while.
        named: Whether the pod has a DNS name of its own, to which its certificate is made out.
        ipv4: Whether the address is IPv4, which is preferred, so that the choice is stable.
    """

    alive: bool
    named: bool
    ipv4: bool
    shard: int
    node_id: str
    target: Target


class Slices:
    """The slices of one namespace that are known."""

    def __init__(self, port_name: str, domains: Mapping[int, str]) -> None:
        """Begins without slices.

        Args:
            port_name: The port of the Services where the nodes serve Doug.
            domains: By shard, the domain of its nodes' names; where it is missing, that of the slice's Service.
        """
        self._port_name = port_name
        self._domains = domains
        self._slices: dict[str, Mapping[str, Any]] = {}

    def replace(self, items: Sequence[Mapping[str, Any]]) -> Change:
        """Takes a full list."""
        before = self._nodes()
        self._slices = {_name(item): item for item in items}
        return _compared(before, self._nodes())

    def apply(self, kind: str, item: Mapping[str, Any]) -> Change:
        """Takes one event of a watch: ADDED, MODIFIED or DELETED. Any other kind changes nothing."""
        before = self._nodes()
        if kind == "DELETED":
            self._slices.pop(_name(item), None)
        elif kind in ("ADDED", "MODIFIED"):
            self._slices[_name(item)] = item
        else:
            return Change()
        return _compared(before, self._nodes())

    def _nodes(self) -> dict[tuple[int, str], Target]:
        """The target of each node of each shard."""
        return {
            (shard, node_id): target for shard, nodes in self.targets().items() for node_id, target in nodes.items()
        }

    def targets(self) -> dict[int, dict[str, Target]]:
        """The targets of the nodes by shard. A shard without any address is left out."""
        best: dict[str, _Found] = {}
        for item in self._slices.values():
            for found in self._endpoints(item):
                other = best.get(found.node_id)
                if other is None or found > other:
                    best[found.node_id] = found
        result: dict[int, dict[str, Target]] = {}
        for found in sorted(best.values(), key=lambda found: found.node_id):
            result.setdefault(found.shard, {})[found.node_id] = found.target
        return result

    def _endpoints(self, item: Mapping[str, Any]) -> Iterator[_Found]:
        metadata = item.get("metadata") or {}
        labels = metadata.get("labels") or {}
        shard = str(labels.get(SHARD_LABEL, ""))
        ports = [port.get("port") for port in item.get("ports") or () if port.get("name") == self._port_name]
        kind = item.get("addressType")
        if not (shard.isascii() and shard.isdigit()) or not ports or not ports[0] or kind not in ("IPv4", "IPv6"):
            return
        domain = self._domains.get(int(shard)) or f"{labels.get(SERVICE_LABEL, '')}.{metadata.get('namespace', '')}.svc"
        for endpoint in item.get("endpoints") or ():
            reference = endpoint.get("targetRef") or {}
            node_id = reference.get("name", "") if reference.get("kind") == "Pod" else endpoint.get("hostname", "")
            addresses = endpoint.get("addresses") or ()
            if not node_id or not addresses:
                continue
            yield _Found(
                alive=not (endpoint.get("conditions") or {}).get("terminating"),
                named=bool(endpoint.get("hostname")),
                ipv4=kind == "IPv4",
                shard=int(shard),
                node_id=node_id,
                target=Target(str(Address(addresses[0], int(ports[0]))), f"{node_id}.{domain}"),
            )


def _name(item: Mapping[str, Any]) -> str:
    return str((item.get("metadata") or {}).get("name", ""))


def _compared(old: Mapping[tuple[int, str], Target], new: Mapping[tuple[int, str], Target]) -> Change:
    moved = sum(old[node] != new[node] for node in new.keys() & old.keys())
    return Change(len(new.keys() - old.keys()), moved, len(old.keys() - new.keys()))
