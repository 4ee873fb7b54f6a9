"""How much the log tells of messages that are refused."""

from __future__ import annotations

from raft_node.raft.types import NodeId
from raft_node.rpc.raft.local_member import ADDRESS_CHARACTERS_MAX, LocalMember
from raft_node.rpc.raft.refusals import LINES_BURST, REASON_CHARACTERS_MAX, Refusals


def test_who_is_refused_again_and_again_fills_no_disk() -> None:
    """A certificate of nobody's was enough for lines of megabytes, one for each name that a sender gave itself."""
    now_s, lines = [1000.0], list[dict[str, object]]()
    refusals = Refusals(lambda event, **fields: lines.append({"event": event, **fields}), lambda: now_s[0])
    for number in range(3 * LINES_BURST):
        refusals.tell(f"{number} " + "a" * 2_000_000)
    assert len(lines) == LINES_BURST
    assert sum(len(str(line["reason"])) for line in lines) <= LINES_BURST * REASON_CHARACTERS_MAX
    now_s[0] += 5
    refusals.tell("another")
    assert lines[-1] == {"event": "raft.message_refused", "reason": "another", "left_out": 2 * LINES_BURST}


def test_the_same_reason_is_told_once() -> None:
    """A leader goes on trying to reach an incarnation that is gone."""
    lines: list[str] = []
    refusals = Refusals(lambda event, reason: lines.append(reason), lambda: 0.0)
    for reason in ("gone", "gone", "other", "gone"):
        refusals.tell(reason)
    assert lines == ["gone", "other", "gone"]


def test_no_address_is_kept_that_is_none() -> None:
    me = LocalMember(NodeId("b", 2), b"cluster", 3, "")
    envelope = LocalMember(NodeId("a", 1), b"cluster", 3, "x" * (ADDRESS_CHARACTERS_MAX + 1)).envelope(me.node_id)
    me.heard(envelope)
    assert set(me.client_addresses) == {"b"}
