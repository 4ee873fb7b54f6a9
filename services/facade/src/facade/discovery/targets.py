"""What discovery says: where each node of each shard is to be reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol


class Target(NamedTuple):
    """Where one node is to be reached.

    Attributes:
        address: Its Doug address, ``host:port``.
        name: The name that its certificate must carry; empty for the host of the address.
    """

    address: str
    name: str = ""


Targets = Mapping[int, Mapping[str, Target]]
"""Targets by shard and node id. Shards that are not in it are left as they are."""

Publish = Callable[[Targets], None]


class Discovery(Protocol):
    """A source of targets."""

    async def run(self, publish: Publish) -> None:
        """Publishes what it knows, and again whenever that changes. It may end once nothing can change any more."""

    def hurry(self) -> None:
        """A node cannot be reached where it was said to be: look again soon."""
