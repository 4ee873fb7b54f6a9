"""Who may call Doug and Admin where clients have to say who they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from doug.v1 import admin_pb2, doug_pb2
from doug_stream.events import RequestReceived
from doug_stream.server import ServerCall
from raft_node.rpc.doug.callers import LINES_BURST, Callers
from raft_node.rpc.doug.wanted import RULES
from raft_node.rpc.hot_streams import PIPE
from raft_node.rpc.raft.certificate_names import names_of


class Aborted(Exception):  # noqa: N818
    """What grpc raises out of ``abort``."""


class FakeContext:
    def __init__(self, *names: str, tls: bool = True, others: dict[str, str] | None = None) -> None:
        self._others = {kind: [name.encode()] for kind, name in (others or {}).items()}
        self._names = [name.encode() for name in (*names, *(others or {}).values())]
        self._tls = tls
        self.status: grpc.StatusCode | None = None

    def auth_context(self) -> dict[str, list[bytes]]:
        if not self._tls:
            return {}
        return {"transport_security_type": [b"ssl"], "x509_subject_alternative_name": self._names, **self._others}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def peer(self) -> str:
        return "ipv4:192.0.2.1:5"

    async def abort(self, status: grpc.StatusCode, details: str, metadata: object) -> None:
        self.status = status
        raise Aborted(details)


def nothing(event: str, **fields: object) -> None:
    """A log that nobody reads."""


CALLERS = Callers(["dougdb-facade", "shard-0-1"], nothing)


@pytest.mark.parametrize("names", [("localhost", "dougdb-facade"), ("Shard-0-1",)])
async def test_facades_and_nodes_are_let_in(names: tuple[str, ...]) -> None:
    context: Any = FakeContext(*names)
    await CALLERS.admit(context, "doug.v1.Doug", "Get")
    assert context.status is None


@pytest.mark.parametrize(
    "context",
    [FakeContext(), FakeContext("localhost", "a-client"), FakeContext("dougdb-facade", tls=False), FakeContext("*")],
)
async def test_anybody_else_is_refused(context: Any) -> None:
    with pytest.raises(Aborted):
        await CALLERS.admit(context, "doug.v1.Doug", "Get")
    assert context.status is grpc.StatusCode.UNAUTHENTICATED


METHODS = [
    (service.full_name, method.name)
    for file, name in ((doug_pb2, "Doug"), (admin_pb2, "Admin"))
    for service in (file.DESCRIPTOR.services_by_name[name],)
    for method in service.methods
]


@pytest.mark.parametrize("kind", ["peer_uri", "peer_email"])
async def test_only_a_name_of_a_host_makes_a_facade(kind: str) -> None:
    """gRPC tells all alternative names together; URIs and e-mail addresses are those of clients."""
    context: Any = FakeContext("localhost", others={kind: "dougdb-facade"})
    with pytest.raises(Aborted):
        await CALLERS.admit(context, "doug.v1.Doug", "Get")
    assert names_of(context) == {"localhost"}


def test_the_own_streams_tell_names_of_hosts_alone() -> None:
    kinds = (("DNS", "a.node"), ("IP Address", "10.0.0.1"), ("URI", "dougdb-facade"), ("email", "shard-0-1"))
    endpoint: Any = SimpleNamespace(about=lambda what: {"subjectAltName": kinds})
    method: Any = SimpleNamespace(encode=bytes, decode=PIPE.decode_request)
    call = ServerCall(endpoint, RequestReceived(1, PIPE.path, (), None), method)
    assert names_of(cast("Any", call)) == {"a.node", "10.0.0.1"}


def test_every_method_has_a_rule_and_every_rule_a_method() -> None:
    """A new method of Doug or Admin needs a rule, or it is served to nobody and this fails."""
    assert sorted(METHODS) == sorted((service, method) for service, rules in RULES.items() for method in rules)


@pytest.mark.parametrize(("service", "method"), METHODS)
async def test_each_method_is_for_facades_and_nodes_alone(service: str, method: str) -> None:
    let_in: Any = FakeContext("dougdb-facade")
    await CALLERS.admit(let_in, service, method)
    for context in (FakeContext(), FakeContext("a-client"), FakeContext("dougdb-facade", tls=False)):
        stranger: Any = context
        with pytest.raises(Aborted):
            await CALLERS.admit(stranger, service, method)
        assert context.status is grpc.StatusCode.UNAUTHENTICATED


async def test_a_method_without_a_rule_is_served_to_nobody() -> None:
    context: Any = FakeContext("dougdb-facade")
    with pytest.raises(Aborted):
        await CALLERS.admit(context, "doug.v1.Doug", "Other")
    assert context.status is grpc.StatusCode.PERMISSION_DENIED


async def test_the_log_tells_who_was_refused_and_in_a_bounded_number_of_lines() -> None:
    told: list[dict[str, object]] = []
    now_s = [0.0]
    callers = Callers(
        ["dougdb-facade"], lambda event, **fields: told.append({"event": event, **fields}), lambda: now_s[0]
    )
    stranger: Any = FakeContext("a-client", "localhost")
    facade: Any = FakeContext("dougdb-facade")
    await callers.admit(facade, "doug.v1.Doug", "Get")
    assert told == []
    for _ in range(LINES_BURST + 7):
        with pytest.raises(Aborted):
            await callers.admit(stranger, "doug.v1.Doug", "Get")
    assert len(told) == LINES_BURST
    assert told[0] == {
        "event": "caller.refused",
        "outcome": "unauthenticated",
        "address": "ipv4:192.0.2.1:5",
        "certificate": "a-client, localhost",
        "principal": "",
        "method": "/doug.v1.Doug/Get",
        "left_out": 0,
    }
    now_s[0] = 60.0
    with pytest.raises(Aborted):
        await callers.admit(facade, "doug.v1.Doug", "Other")
    assert (told[-1]["outcome"], told[-1]["left_out"]) == ("forbidden", 7)
