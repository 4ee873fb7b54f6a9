"""The addresses of members: from the settings, or from the configuration that admitted them.

Must not know connections. An address in the settings wins, so that whoever runs the nodes (a StatefulSet with its DNS
names, say) stays in charge of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from raft_node.raft.membership import members_of
from raft_node.raft.types import Configuration, NodeId

_REMEMBERED_MAX = 256


class AddressBook:
    """Raft addresses by member. It remembers those of removed nodes, so that these can be told of their removal."""

    def __init__(self, settings: Mapping[str, str], configuration: Callable[[], Configuration]) -> None:
        """Takes the sources of addresses.

        Args:
            settings: The addresses by name that the settings give.
            configuration: Gives the configuration in force.
        """
        self._settings = settings
        self._configuration = configuration
        self._learned_from: Configuration | None = None
        self._learned: dict[NodeId, str] = {}

    def find(self, node: NodeId) -> str | None:
        """The address of a member, of a former member, or of a node that the settings name; else None."""
        self._learn()
        return self._settings.get(node.name) or self._learned.get(node)

    def configured(self, name: str) -> str | None:
        """The address that the settings give a name."""
        return self._settings.get(name)

    def all(self) -> dict[str, str]:
        """All known addresses by name, of members and of nodes that the settings name."""
        return {**dict(self._configuration().addresses), **self._settings}

    def _learn(self) -> None:
        configuration = self._configuration()
        if configuration is self._learned_from:
            return
        self._learned_from = configuration
        addresses = dict(configuration.addresses)
        for member in members_of(configuration):
            if member.name in addresses:
                self._learned[member] = addresses[member.name]
        while len(self._learned) > _REMEMBERED_MAX:
            del self._learned[next(iter(self._learned))]
