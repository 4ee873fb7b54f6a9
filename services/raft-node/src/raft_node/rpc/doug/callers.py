"""Who may call Doug and Admin where clients have to say who they are: facades, and the cluster's own nodes.

A facade has judged a request before it sends it on; anybody else would go past that. A caller is told by the names in
its certificate, which the authority has signed. Must not know what is called. Invariant: whoever cannot be told is
refused, also on a connection without TLS.

Source: docs/auth.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio

from raft_node.rpc.raft.certificate_names import names_of

Context = grpc.aio.ServicerContext[Any, Any]


class Callers:
    """Lets those in whose certificate has one of some names."""

    def __init__(self, names: Iterable[str]) -> None:
        """The names are those of facades and nodes."""
        self._names = frozenset(name.lower() for name in names)

    async def admit(self, context: Context) -> None:
        """Refuses a call of somebody else: the call is aborted, and gRPC raises out of it."""
        if self._names.isdisjoint(names_of(context) or ()):
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED,
                "UNAUTHENTICATED: only facades and nodes are served here; go through a facade",
                (("doug-code", "UNAUTHENTICATED"),),
            )
