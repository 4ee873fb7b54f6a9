"""The search for a shard's leader: asks all nodes who leads, for as long as nobody knows or a node is silent.

Must not know what an answer means: the shard takes it. Invariant: a node that does not answer holds up no other one.
"""

from __future__ import annotations

import asyncio

from facade.client.node import Node
from facade.client.questions import Questions, until
from facade.client.shard import Shard

STATUS_TIMEOUT_S = 0.2
SEARCH_S, SEARCH_IDLE_S = 0.05, 0.5
"""The pauses between two rounds of asking all nodes who leads: while operations wait, and while none does."""


class LeaderSearch:
    """Finds the leader of one shard whenever it is not known."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    async def run(self) -> None:
        """Asks all nodes who leads, while no leader is known or a node is silent; ends only by cancellation."""
        shard = self._shard
        async with Questions(self._ask) as questions:
            while True:
                await shard.in_question.wait()
                shard.in_question.clear()  # Before the questions: who comes while they are under way is asked, too.
                # A leader that vanished must not hide its successor.
                await questions.ask(tuple(shard.nodes.values()), SEARCH_S, shard.all_speak)
                if shard.all_speak():
                    continue
                shard.in_question.set()
                in_doubt = shard.leader_in_doubt()
                shard.hurry.clear()
                shard.unreachable.set()
                await asyncio.sleep(SEARCH_S)
                if shard.ever_led and not (in_doubt and shard.leader_awaited()):
                    await until(shard.hurry, SEARCH_IDLE_S)

    async def _ask(self, node: Node) -> None:
        node.known = True
        self._shard.told(node, await node.status(STATUS_TIMEOUT_S))
