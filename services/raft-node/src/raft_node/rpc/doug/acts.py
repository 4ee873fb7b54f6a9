"""What operators did at this node, in its log: who, for which request, what, and what came of it.

Must not know who may do what. Invariants:

1. A principal is named only by its own proof, or by a facade; by nobody else.
2. Whatever is told is printable ASCII of bounded length, in a bounded number of lines.

Source: docs/auth.md; ADR 17.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import grpc.aio

from doug_stream.limits import Bucket
from doug_wire.on_behalf import Behalf, shown
from raft_node.rpc.doug.wanted import ADMIN

ACTS = frozenset(
    (ADMIN, method)
    for method in (
        "TransferLeadership",
        "Drain",
        "AddMember",
        "RemoveMember",
        "ReplaceMember",
        "Backup",
        "SetAuth",
    )
)
"""The methods that change something, or hand out all that a shard holds."""

LINES_BURST = 100
LINES_PER_S = 1.0
_OBJECTS = ("name", "target", "address")


class Acts:
    """Tells the log of the acts of operators."""

    def __init__(self, tell: Callable[..., object], clock: Callable[[], float]) -> None:
        """Begins without having told anything.

        Args:
            tell: The log.
            clock: Gives seconds that never go back.
        """
        self._tell = tell
        self._clock = clock
        self._lines = Bucket(LINES_BURST, LINES_PER_S)
        self._left_out = 0

    async def attend(
        self,
        answer: Awaitable[Any],
        behalf: Behalf,
        asked: tuple[str, Any],
        address: str,
        certificate: Collection[str],
    ) -> Any:
        """Waits for the answer to a call, and tells what came of it; raises what the call does.

        Args:
            answer: The call.
            behalf: For whom it is made, as far as that is proven.
            asked: The method's name and its request.
            address: The caller's address.
            certificate: The names in the caller's certificate.
        """
        outcome = "failed"
        try:
            answered = await answer
            outcome = "done"
        except grpc.aio.AbortError:
            outcome = "refused"
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self._note(outcome, behalf, asked, address, certificate)
        return answered

    def _note(
        self, outcome: str, behalf: Behalf, asked: tuple[str, Any], address: str, certificate: Collection[str]
    ) -> None:
        if not self._lines.take(self._clock()):
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        method, request = asked
        objects = {name: shown(str(getattr(request, name, ""))) for name in _OBJECTS}
        self._tell(
            "operator.acted",
            outcome=outcome,
            method=method,
            principal=behalf.principal,
            request_id=behalf.request_id,
            address=address,
            certificate=shown(", ".join(sorted(certificate))),
            asked={name: value for name, value in objects.items() if value},
            left_out=left_out,
        )
