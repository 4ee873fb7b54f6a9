"""Targets from the settings: published once, and never again."""

from __future__ import annotations

from collections.abc import Mapping

from facade.discovery.targets import Publish, Target, Targets


def targets_of(nodes: Mapping[int, Mapping[str, str]]) -> Targets:
    """The targets that ``DOUGDB_NODES`` names."""
    return {shard: {node_id: Target(address) for node_id, address in of.items()} for shard, of in nodes.items()}


class StaticDiscovery:
    """The source that publishes the nodes in the settings."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets

    def hurry(self) -> None:
        """Does nothing, since nothing can be looked up."""

    async def run(self, publish: Publish) -> None:
        """Publishes the nodes in the settings, once."""
        publish(self._targets)
