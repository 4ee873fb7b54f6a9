"""Which replica of a shard is asked next, of those that may all answer.

A choice, and nothing else: it knows no queue and sends nothing. Of the replicas that are up, have room and owe no
answer for long, those come first that were not found to be behind (for reads that say what they must see), then those
that are not slow, then those in the facade's own zone, then those with the fewest reads under way; and of equal ones
the one that has taken reads longest ago, so that reads are spread evenly. To be chosen is no turn yet: of several
that are chosen for the reads of one moment, the first may take them all.

Source: docs/api.md, Consistency.
"""

from __future__ import annotations

from collections.abc import Iterable

from facade.client.modes import Kind
from facade.client.node import Node

SILENT_S = 0.5
"""An answer takes milliseconds. A node that owes one for this long is stuck, stopped or cut off."""

BEHIND_S = 1.0
"""For so long others are asked first than a node that said it is not fresh enough."""

SLOW_S = 0.1
"""A local read takes milliseconds: a node that owes one for so long is slow, and the read is tried elsewhere."""

SLOW_FOR_S = 1.0
"""For so long others are asked first than a node that was slow."""


def answers(node: Node, now_s: float) -> bool:
    """Whether a node is worth sending to: it owes no answer, or not for long."""
    return not node.suspect and node.link.silent_s(now_s) <= SILENT_S


class Replicas:
    """The replicas of one shard, in the order of their turns."""

    def __init__(self, nodes: Iterable[Node], zone: str) -> None:
        """Starts with these nodes; ``zone`` is the facade's own, empty for none."""
        self._turns = list(nodes)
        self._zone = zone

    def __contains__(self, node: Node) -> bool:
        return node in self._turns

    def add(self, node: Node) -> None:
        """Adds a node: reads may go to it, too."""
        self._turns.append(node)

    def remove(self, node: Node) -> None:
        """Removes a node: no read goes to it any more."""
        if node in self._turns:
            self._turns.remove(node)

    def choose(self, kind: Kind, now_s: float, but: Node | None = None) -> Node | None:
        """The replica whose turn it is; None if no replica can take a batch of this kind now.

        Args:
            kind: The kind of the reads.
            now_s: The loop's clock.
            but: A node that is not chosen in any case; None for no such node.
        """
        best: Node | None = None
        best_rank = (True, True, True, 0)
        fresh, zone = kind is Kind.READ_FRESH, self._zone
        for node in self._turns:
            if kind in node.granted or node is but:
                continue
            node.want()
            link = node.link
            if not (node.up and link.has_room(kind) and answers(node, now_s)):
                continue
            rank = (
                fresh and node.behind_until_s > now_s,
                node.slow_until_s > now_s,
                bool(zone and node.zone and node.zone != zone),
                link.items(kind),
            )
            if best is None or rank < best_rank:
                best, best_rank = node, rank
                if rank == (False, False, False, 0):
                    break
        return best

    def took(self, node: Node) -> None:
        """Notes that a node has taken reads: the others come first now."""
        if self._turns[-1] is not node:
            self._turns.remove(node)
            self._turns.append(node)
