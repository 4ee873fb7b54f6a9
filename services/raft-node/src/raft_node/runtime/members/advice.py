"""The commands that a node names when only an operator can help: whole, so that they can be copied as they stand.

Must not know why they are needed; whoever says it does.
"""

from __future__ import annotations

UNKNOWN_ADDRESS = "HOST:PORT"


def add_command(name: str, shard: int, address: str = "") -> str:
    """The command that admits a node, ready to be run; with ``HOST:PORT`` if its Raft address is not known."""
    return f"`dougctl members add {name} --shard {shard} --address {address or UNKNOWN_ADDRESS}`"


def replace_command(name: str, shard: int) -> str:
    """The command that admits a member's new incarnation in place of the old one, ready to be run."""
    return f"`dougctl members replace {name} --shard {shard}`"
