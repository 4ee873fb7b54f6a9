"""The callers of Doug and Admin where clients have to say who they are: facades and the cluster's nodes alone.

A facade has judged a request before it sends it on; anybody else would go past that. A caller is told by the names in
its certificate, which the authority has signed. Invariants: whoever cannot be told is refused, also on a connection
without TLS; a method without a rule is served to nobody.

Source: docs/auth.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio

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


class Callers:
    """Admits callers whose certificates have the names of facades or nodes."""

    def __init__(self, names: Iterable[str]) -> None:
        """Takes the names of facades and nodes."""
        self._names = frozenset(name.lower() for name in names)

    async def admit(self, context: Context, service: str, method: str) -> None:
        """Aborts a call of any other caller, or of a method without a rule; gRPC's exception leaves this function."""
        if method not in RULES.get(service, {}):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                "FORBIDDEN: there is no rule for this method",
                (("doug-code", "FORBIDDEN"),),
            )
        if self._names.isdisjoint(names_of(context) or ()):
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED,
                "UNAUTHENTICATED: only facades and nodes are served here; go through a facade",
                (("doug-code", "UNAUTHENTICATED"),),
            )
