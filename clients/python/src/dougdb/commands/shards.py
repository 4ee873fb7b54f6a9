"""Finds the shard of a command without ``--shard``: the shard of the node that it names, or the only shard.

The node may be one that no shard knows yet: its name then tells the shard, as the names of ``dougctl dev`` and of the
Helm chart do (``shard-1-5``, ``dougdb-shard-1-5``). It never guesses: a name without a shard, a name that more than one
shard has, and several shards without a name, end the command with exit code 2 and the numbers to choose from.
"""

from __future__ import annotations

import re
from typing import Annotated

import typer

from dougdb.client import DougClient
from dougdb.commands.common import ExitCode, fail

ShardOption = Annotated[
    int | None,
    typer.Option(
        "--shard", min=0, help="The shard; if left out, that of the node, or the only one.", show_default=False
    ),
]
_NAMED = re.compile(r"(?:.*-)?shard-(0|[1-9][0-9]{0,8})-[0-9]+\Z")


def chosen(client: DougClient, shard: int | None, node: str | None = None) -> int:
    """The number of the shard on which a command works.

    Args:
        client: Reads the cluster's shards, unless ``shard`` is given.
        shard: The value of ``--shard``; None if it is not given.
        node: The node that the command names; None if it names none.
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
