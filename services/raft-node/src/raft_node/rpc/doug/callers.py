"""The callers of Doug and Admin where clients have to say who they are: facades and the cluster's nodes alone.

A facade has judged a request before it sends it on; anybody else would go past that. A caller is told by the names in
its certificate, which the authority has signed. Invariants:

1. Whoever cannot be told is refused, also on a connection without TLS.
2. A method without a rule is served to nobody.
3. The log tells who was refused, in a bounded number of lines; never what a call was about.

Source: docs/auth.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import grpc.aio

from doug_stream.limits import Bucket
from doug_wire.auth.grants import Verb
from raft_node.rpc.raft.certificate_names import names_of

RULES: dict[str, dict[str, set[Verb]]] = {
    "doug.v1.Doug": {
        "Get": {Verb.READ},
        "Put": {Verb.WRITE},
        "Delete": {Verb.WRITE},
        "Increment": {Verb.WRITE},
        "Touch": {Verb.WRITE},
        "Txn": {Verb.READ, Verb.WRITE},
        "ExecuteBatch": {Verb.READ, Verb.WRITE},
        "FindOutcome": {Verb.READ, Verb.WRITE},
        "DeleteRange": {Verb.WRITE},
        "Pipe": {Verb.READ, Verb.WRITE},
        "Partitions": set(),
        "Scan": {Verb.READ},
        "Watch": {Verb.WATCH},
    },
    "doug.v1.Admin": {
        "Status": {Verb.METRICS},
        "Events": {Verb.METRICS},
        "TransferLeadership": {Verb.MEMBERS},
        "Drain": {Verb.MEMBERS},
        "Members": {Verb.METRICS, Verb.MEMBERS},
        "AddMember": {Verb.MEMBERS},
        "RemoveMember": {Verb.MEMBERS},
        "ReplaceMember": {Verb.MEMBERS},
        "Backup": {Verb.BACKUP},
        "GetAuth": {Verb.AUTH},
        "SetAuth": {Verb.AUTH},
    },
}
"""The rights, some of which a facade has asked for before it calls a method for a client; none for what tells nothing
of keys or nodes. A caller that is no facade and no node has none of them here."""

Context = grpc.aio.ServicerContext[Any, Any]


LINES_BURST = 100
LINES_PER_S = 1.0
NAME_CHARACTERS_MAX = 256


class Callers:
    """Admits callers whose certificates have the names of facades or nodes.

    Attributes:
        caller_of: Gives the address of a caller.
    """

    def __init__(
        self,
        names: Iterable[str],
        tell: Callable[..., object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins without having refused anybody.

        Args:
            names: The names of facades and nodes.
            tell: The log, which is told of callers that are refused.
            clock: Gives seconds that never go back.
        """
        self._names = frozenset(name.lower() for name in names)
        self._tell = tell
        self._clock = clock
        self._lines = Bucket(LINES_BURST, LINES_PER_S)
        self._left_out = 0
        self.caller_of: Callable[[Any], str] = lambda context: str(context.peer())

    async def admit(self, context: Context, service: str, method: str) -> None:
        """Aborts a call of any other caller, or of a method without a rule; gRPC's exception leaves this function."""
        if method not in RULES.get(service, {}):
            self._refused(context, service, method, "forbidden", ())
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                "FORBIDDEN: there is no rule for this method",
                (("doug-code", "FORBIDDEN"),),
            )
        names = names_of(context) or ()
        if self._names.isdisjoint(names):
            self._refused(context, service, method, "unauthenticated", names)
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED,
                "UNAUTHENTICATED: only facades and nodes are served here; go through a facade",
                (("doug-code", "UNAUTHENTICATED"),),
            )

    def _refused(self, context: Context, service: str, method: str, outcome: str, names: Iterable[str]) -> None:
        if not self._lines.take(self._clock()):
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        shown = ", ".join(sorted(names))[:NAME_CHARACTERS_MAX]
        self._tell(
            "caller.refused",
            outcome=outcome,
            address=self.caller_of(context),
            certificate=shown,
            method=f"/{service}/{method}",
            left_out=left_out,
        )
