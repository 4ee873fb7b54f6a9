"""A node's judgement of clients that call it themselves, without a node: calls, a shard's users."""

from __future__ import annotations

from typing import Any

import grpc

from doug_wire.auth import tokens
from doug_wire.auth.bearers import Bearers
from doug_wire.auth.document import EMPTY, Document, Held, TokenRecord
from doug_wire.auth.grants import parse_grant
from raft_node.kv.operations.access import Stored
from raft_node.rpc.doug.callers import Callers
from raft_node.rpc.doug.guests import LOOK_S, Guests
from raft_node.rpc.doug.wanted import DOUG


class Aborted(Exception):  # noqa: N818
    """What grpc raises out of ``abort``."""


class FakeContext:
    """A call with a client's certificate and some metadata."""

    def __init__(
        self, *metadata: tuple[str, str | bytes], name: str = "dougdb-client", tls: bool = True, pem: bytes = b""
    ) -> None:
        self._metadata = metadata
        self._pem = pem
        self._name = name
        self._tls = tls
        self.address = "ipv4:192.0.2.1:5"
        self.status: grpc.StatusCode | None = None
        self.code = ""
        self.trailer: dict[str, str] = {}

    def auth_context(self) -> dict[str, list[bytes]]:
        """See grpc: what TLS tells of the connection."""
        if not self._tls:
            return {}
        return {
            "transport_security_type": [b"ssl"],
            "x509_subject_alternative_name": [self._name.encode()],
            **({"x509_pem_cert": [self._pem]} if self._pem else {}),
        }

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """See grpc."""
        return self._metadata

    def peer(self) -> str:
        """See grpc."""
        return self.address

    async def abort(self, status: grpc.StatusCode, details: str, metadata: tuple[tuple[str, str], ...]) -> None:
        """See grpc; notes what the call was refused with."""
        self.status, self.trailer = status, dict(metadata)
        self.code = self.trailer["doug-code"]
        raise Aborted(details)


class Shard:
    """What a shard holds, and a node of it that judges by that."""

    def __init__(
        self, *, is_copy: bool = False, modes: tuple[str, ...] = ("token",), bearers: Bearers | None = None
    ) -> None:
        self.document = EMPTY
        self.revision = 1
        self.error: Exception | None = None
        self.asked = 0
        self.now_s = 1000.0
        self.early_s = 0.0
        """How far the wall clock is ahead of the other one."""
        self.lines: list[dict[str, object]] = []
        clock = lambda: self.now_s  # noqa: E731
        self.guests = Guests(
            self.held,
            is_copy=is_copy,
            modes=modes,
            bearers=bearers,
            clock=clock,
            wall_clock=lambda: self.now_s + self.early_s,
        )
        self.callers = Callers(["dougdb-facade"], self.tell, lambda: self.now_s, self.guests)

    def tell(self, event: str, **fields: object) -> None:
        """Takes a line of the log."""
        self.lines.append({"event": event, **fields})

    async def held(self) -> Stored:
        """The document, as a quorum has confirmed it."""
        self.asked += 1
        if self.error is not None:
            raise self.error
        return Stored(self.revision, self.document.encode())

    def becomes(self, document: Document) -> None:
        """Has another document, of which the node will have heard."""
        self.document, self.revision = document, self.revision + 1
        self.now_s += LOOK_S

    def makes(self, name: str, *allow: str, expires_ms: int = 0) -> str:
        """Makes a token, and returns its text."""
        minted = tokens.mint()
        held = Held(tuple(map(parse_grant, allow)))
        record = TokenRecord(minted.id, minted.salt, minted.digest, held, 1, expires_ms)
        self.becomes(self.document.with_token(name, record))
        return minted.text

    async def calls(self, context: FakeContext, method: str, request: Any, service: str = DOUG) -> Any:
        """The status of a call, None if it is served."""
        guarded: Any = context
        try:
            attend = await self.callers.admit(guarded, service, method, request)
        except Aborted:
            return context.status
        if attend is not None:
            await attend(answered())
        return None


async def answered() -> str:
    """A call that is answered at once."""
    return "done"


def shown(token: str) -> FakeContext:
    """A call that shows a token."""
    return FakeContext(("authorization", f"Bearer {token}"))
