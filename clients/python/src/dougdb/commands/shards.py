"""Which shard a command means when ``--shard`` does not say it: the one of the node that it names, or the only one.

The node may be one that no shard knows yet: its name then tells the shard, as those of ``dougctl dev`` and of the Helm
chart do (``shard-1-5``, ``dougdb-shard-1-5``). It never guesses: a name that tells nothing or that more than one shard
has, and several shards where nothing tells them apart, end the command with exit code 2 and the numbers to choose from.
"""

from __future__ import annotations

import re
from typing import Annotated

import typer

from dougdb.client import DougClient
from dougdb.commands.common import ExitCode, fail

ShardOption = Annotated[
    int | None,
    typer.Option("--shard", min=0, help="Which shard; else that of the node, or the only one.", show_default=False),
]
_NAMED = re.compile(r"(?:.*-)?shard-(0|[1-9][0-9]{0,8})-[0-9]+\Z")


def chosen(client: DougClient, shard: int | None, node: str | None = None) -> int:
    """The shard that a command works on.

    Args:
        client: Asked for the cluster's shards, unless the option says which.
        shard: What ``--shard`` said.
        node: The node that the command names, if any.
    """
    if shard is not None:
        return shard
    shards = client.cluster().shards
    homes = [found for found in shards if any(known.id == node for known in found.nodes)]
    named = None if node is None else _NAMED.match(node)
    if not homes and named is not None:
        homes = [found for found in shards if found.id == named[1]]
    homes = homes or list(shards)
    if len(homes) != 1:
        choice = " or ".join(f"--shard {found.id}" for found in shards)
        which = "there is more than one shard" if node is None else f"it is not known which shard {node} belongs to"
        fail(f"{which}: say {choice}", ExitCode.USAGE)
    return int(homes[0].id)
