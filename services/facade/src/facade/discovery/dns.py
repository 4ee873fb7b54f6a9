"""Targets from DNS: the SRV records of each shard's headless Service, asked for again and again.

Kubernetes answers ``_PORT._tcp.SERVICE`` with one record for each pod, whose target is the pod's own name. The nodes
are dialled by these names, so that gRPC looks their addresses up by itself whenever a connection breaks; this module
only learns which names there are. Must not know shards' states or connections.

Invariants: (1) a name that cannot be resolved keeps what it gave last; (2) each shard stands for itself; (3) it asks
at most once a second, however often it is hurried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.rdtypes.IN.SRV
import structlog

from facade.discovery.metrics import DiscoveryMetrics
from facade.discovery.targets import Publish, Target
from facade.settings import Address

SOURCE = "dns"
LOOKUP_S = 3.0
PAUSE_MIN_S = 1.0

log = structlog.get_logger()


class DnsDiscovery:
    """Polls the SRV records of every shard."""

    def __init__(
        self,
        names: Mapping[int, str],
        port_name: str,
        metrics: DiscoveryMetrics,
        *,
        refresh_s: float,
        pause_s: float = PAUSE_MIN_S,
        resolver: dns.asyncresolver.Resolver | None = None,
    ) -> None:
        """Takes the names to look up.

        Args:
            names: The headless Service of each shard, as a DNS name.
            port_name: The port of these Services where the nodes serve Doug.
            metrics: The figures of discovery.
            refresh_s: The seconds between two rounds while all is well.
            pause_s: The shortest pause between two rounds.
            resolver: The DNS server to ask; None takes the one that the system names.
        """
        self._names = dict(names)
        self._port_name = port_name
        self._metrics = metrics
        self._refresh_s = refresh_s
        self._pause_s = pause_s
        self._resolver = resolver or dns.asyncresolver.Resolver()
        self._resolver.lifetime = LOOKUP_S
        self._known: dict[int, dict[str, Target]] = {}
        self._failing: set[int] = set()
        self._hurried = asyncio.Event()

    def hurry(self) -> None:
        """Begins another round as soon as the shortest pause is over."""
        self._hurried.set()

    async def run(self, publish: Publish) -> None:
        """Asks until cancelled."""
        while True:
            self._hurried.clear()
            found = await asyncio.gather(*(self._resolve(shard, name) for shard, name in self._names.items()))
            changed = {}
            for shard, targets in zip(self._names, found, strict=True):
                if targets and targets != self._known.get(shard):
                    self._count(self._known.get(shard, {}), targets)
                    self._known[shard] = changed[shard] = targets
            if changed:
                publish(changed)
            await asyncio.sleep(self._pause_s)
            try:
                async with asyncio.timeout(max(0.0, self._refresh_s - self._pause_s)):
                    await self._hurried.wait()
            except TimeoutError:
                continue

    async def _resolve(self, shard: int, name: str) -> dict[str, Target]:
        """The targets of one shard; empty when there is no answer."""
        question = f"_{self._port_name}._tcp.{name}"
        try:
            answer = await self._resolver.resolve(question, dns.rdatatype.SRV, search=True)
        except (dns.exception.DNSException, OSError) as error:
            self._metrics.failed(SOURCE, type(error).__name__)
            if shard not in self._failing:
                self._failing.add(shard)
                log.warning("discovery.failing", source=SOURCE, shard=shard, name=question, error=str(error))
            return {}
        self._metrics.succeeded(SOURCE)
        if shard in self._failing:
            self._failing.discard(shard)
            log.warning("discovery.recovered", source=SOURCE, shard=shard)
        service = dns.name.Name(answer.canonical_name.labels[2:])
        targets = {}
        for record in answer:
            assert isinstance(record, dns.rdtypes.IN.SRV.SRV)
            labels = record.target.labels
            if record.target == dns.name.root:
                continue  # It says that there is no node: RFC 2782.
            node_id = dns.name.Name(labels[:1]).to_text()
            # Certificates are made out for the name as it is configured, with or without the cluster's domain.
            own = dns.name.Name(labels[1:]) == service
            host = f"{node_id}.{name}".rstrip(".") if own else record.target.to_text(omit_final_dot=True)
            targets[node_id] = Target(str(Address(host, record.port)))
        return dict(sorted(targets.items()))

    def _count(self, old: Mapping[str, Target], new: Mapping[str, Target]) -> None:
        self._metrics.event(SOURCE, "added", len(new.keys() - old.keys()))
        self._metrics.event(SOURCE, "removed", len(old.keys() - new.keys()))
        self._metrics.event(SOURCE, "changed", sum(old[node] != new[node] for node in new.keys() & old.keys()))
