"""The result of discovery: the target at which each node of each shard can be reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol


class Target(NamedTuple):
    """The place at which one node can be reached.

    Attributes:
        address: The node's Doug address, ``host:port``.
        name: The name that the node's certificate must carry; empty for the host of the address.
    """

    address: str
    name: str = ""


Targets = Mapping[int, Mapping[str, Target]]
"""Targets by shard and node id. Shards that are not in it are left as they are."""

Publish = Callable[[Targets], None]


class Discovery(Protocol):
    """A source of targets."""

    async def run(self, publish: Publish) -> None:
        """Publishes the targets, and again whenever they change. It may end once they cannot change any more."""

    def hurry(self) -> None:
        """Has the source look again soon, because a node cannot be reached at its target."""
