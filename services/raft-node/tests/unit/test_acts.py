"""The acts of operators in a node's log: who did it, by their own proof or by a facade's word, and by nobody else's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from doug.v1 import admin_pb2
from doug_wire.on_behalf import CHARACTERS_MAX, PRINCIPAL, REQUEST_ID, Behalf, metadata_of, read
from raft_node.rpc.doug.acts import LINES_BURST
from raft_node.rpc.doug.callers import Callers
from raft_node.rpc.doug.wanted import ADMIN
from raft_testing.guests import FakeContext, Shard

SAID = metadata_of("token:ann", "r-1")
MOVE = admin_pb2.TransferLeadershipRequest(target="b\nc")


def shard_of() -> Shard:
    shard = Shard()
    names = ["dougdb-facade", "shard-0-1"]
    shard.callers = Callers(names, shard.tell, lambda: shard.now_s, shard.guests, facades=names[:1])
    return shard


@pytest.mark.parametrize(
    ("name", "told"), [("dougdb-facade", ("token:ann", "r-1")), ("shard-0-1", ("", "")), ("DougDB-Facade", None)]
)
async def test_the_log_names_for_whom_a_facade_acts(name: str, told: tuple[str, str] | None) -> None:
    shard = shard_of()
    assert await shard.calls(FakeContext(*SAID, name=name), "TransferLeadership", MOVE, ADMIN) is None
    (line,) = shard.lines
    assert (line["principal"], line["request_id"]) == (told or ("token:ann", "r-1"))
    assert (line["event"], line["method"], line["outcome"]) == ("operator.acted", "TransferLeadership", "done")
    assert line["asked"] == {"target": "b%0Ac"}
    assert await shard.calls(FakeContext(*SAID, name=name), "Status", admin_pb2.StatusRequest(), ADMIN) is None
    assert len(shard.lines) == 1, "what changes nothing has no line"


async def test_a_client_is_named_by_its_own_proof_whatever_it_says() -> None:
    shard = shard_of()
    token = shard.makes("bob", "admin:members")
    context = FakeContext(("authorization", f"Bearer {token}"), *SAID)
    assert await shard.calls(context, "TransferLeadership", MOVE, ADMIN) is None
    assert [(line["principal"], line["request_id"]) for line in shard.lines] == [("token:bob", "")]
    assert await shard.calls(context, "Backup", admin_pb2.BackupRequest(), ADMIN) is not None
    assert shard.lines[-1]["principal"] == "token:bob", "nor is it judged by it, or refused under another name"


async def test_what_came_of_it_is_told_and_the_lines_are_bounded() -> None:
    shard = shard_of()
    facade: Any = FakeContext(*SAID, name="dougdb-facade")

    async def fails() -> None:
        raise asyncio.CancelledError

    attend = await shard.callers.admit(facade, ADMIN, "Drain", admin_pb2.DrainRequest())
    assert attend is not None
    with pytest.raises(asyncio.CancelledError):
        await attend(fails())
    assert shard.lines[-1]["outcome"] == "cancelled"
    for _ in range(LINES_BURST + 5):
        await shard.calls(facade, "Drain", admin_pb2.DrainRequest(), ADMIN)
    assert len(shard.lines) == LINES_BURST
    shard.now_s += 5
    await shard.calls(facade, "Drain", admin_pb2.DrainRequest(), ADMIN)
    assert shard.lines[-1]["left_out"] == 6


@pytest.mark.parametrize("name", ["a\nb: c", "\u00e4" * 500, "x" * 5000, "\x00\x7f\ud800", "oidc:https://i/#a b%"])
def test_names_of_any_kind_are_told_as_short_printable_ascii(name: str) -> None:
    told = read(metadata_of(name, name))
    for each in told:
        assert 0 < len(each) <= CHARACTERS_MAX
        assert each.isascii() and each.isprintable() and " " not in each


def test_what_no_facade_writes_is_not_read() -> None:
    assert metadata_of("", "") == ()
    for value in ("a\nb", "a b", "", "x" * (CHARACTERS_MAX + 1), b"a", "\u00e4"):
        assert read(((PRINCIPAL, value), (REQUEST_ID, "r"))) == Behalf("", "r")
    assert read(((PRINCIPAL, "a"), (PRINCIPAL, "b"))) == Behalf()
