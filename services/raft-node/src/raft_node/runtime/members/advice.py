"""The commands that a node names when only an operator can help: whole, so that they can be copied as they stand.

Must not know why they are needed; whoever says it does.
"""

from __future__ import annotations

UNKNOWN_ADDRESS = "HOST:PORT"


def add_command(name: str, shard: int, address: str = "") -> str:
    """How a node is admitted, ready to be run; ``HOST:PORT`` where its Raft address is not known."""
    return f"`dougctl members add {name} --shard {shard} --address {address or UNKNOWN_ADDRESS}`"


def replace_command(name: str, shard: int) -> str:
    """How the new incarnation of a member is admitted in place of the old one, ready to be run."""
    return f"`dougctl members replace {name} --shard {shard}`"
