"""Who may call Doug and Admin where clients have to say who they are."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from raft_node.rpc.doug.callers import Callers


class Aborted(Exception):  # noqa: N818
    """What grpc raises out of ``abort``."""


class FakeContext:
    def __init__(self, *names: str, tls: bool = True) -> None:
        self._names = [name.encode() for name in names]
        self._tls = tls
        self.status: grpc.StatusCode | None = None

    def auth_context(self) -> dict[str, list[bytes]]:
        if not self._tls:
            return {}
        return {"transport_security_type": [b"ssl"], "x509_subject_alternative_name": self._names}

    async def abort(self, status: grpc.StatusCode, details: str, metadata: object) -> None:
        self.status = status
        raise Aborted(details)


CALLERS = Callers(["dougdb-facade", "shard-0-1"])


@pytest.mark.parametrize("names", [("localhost", "dougdb-facade"), ("Shard-0-1",)])
async def test_facades_and_nodes_are_let_in(names: tuple[str, ...]) -> None:
    context: Any = FakeContext(*names)
    await CALLERS.admit(context)
    assert context.status is None


@pytest.mark.parametrize(
    "context",
    [FakeContext(), FakeContext("localhost", "a-client"), FakeContext("dougdb-facade", tls=False), FakeContext("*")],
)
async def test_anybody_else_is_refused(context: Any) -> None:
    with pytest.raises(Aborted):
        await CALLERS.admit(context)
    assert context.status is grpc.StatusCode.UNAUTHENTICATED
