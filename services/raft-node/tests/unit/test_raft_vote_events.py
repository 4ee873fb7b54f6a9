"""What a member tells of votes: asked, given and refused, with the reason; and that it never tells too much."""

from __future__ import annotations

import pytest

from raft_node.raft.messages import Heartbeat, RequestVote, RequestVoteResponse, TimeoutNow
from raft_node.raft.ready import Event
from raft_node.raft.types import Configuration, HardState, NodeId, Role
from raft_node.runtime.events import EventRing
from raft_testing.lockstep import Lockstep, Peer, follower, leader_of, log_of, members, vote

A, B, C, D, E = members(5)


def told(peer: Peer, name: str) -> list[dict[str, object]]:
    return [event.fields for event in peer.events if event.name == name]


def refusal(peer: Peer) -> str:
    (fields,) = told(peer, "vote_refused")
    return str(fields["reason"])


class TestAsked:
    def test_a_campaign_tells_why_and_whom_it_asks(self) -> None:
        shard = Lockstep(3)
        shard.elect("a")
        shard.tick(6)
        shard.cut("a")
        peer = shard["b"]
        peer.events.clear()
        peer.node.tick(60)
        shard.deliver()
        assert told(peer, "became_pre_candidate") == [{"term": 1, "reason": "a is silent", "asks": ["a", "c"]}]
        assert told(peer, "became_candidate") in (
            [],
            [{"term": 2, "transfer": False, "asks": ["a", "c"]}],
        )

    def test_a_campaign_that_the_leader_asked_for_says_so(self) -> None:
        peer = Peer(A, Configuration((A, B, C)), log=log_of(1))
        peer.step(Heartbeat(B, A, 1, 0, 0), TimeoutNow(B, A, 1))
        assert told(peer, "became_candidate") == [{"term": 2, "transfer": True, "asks": ["b", "c"]}]


class TestGiven:
    @pytest.mark.parametrize("pre_vote", [True, False])
    def test_a_vote_that_was_given_is_told(self, pre_vote: bool) -> None:
        peer = follower(1)
        peer.step(vote(B, 2, 1, 1, pre_vote))
        term = 1 if pre_vote else 2
        assert told(peer, "vote_given") == [
            {"term": term, "asked_term": 2, "candidate": "b", "pre_vote": pre_vote},
        ]
        assert told(peer, "vote_refused") == []


class TestRefused:
    @pytest.mark.parametrize("pre_vote", [True, False])
    def test_a_log_that_is_not_up_to_date(self, pre_vote: bool) -> None:
        peer = follower(1, 2, 2)
        peer.step(vote(B, 3, 2, 2, pre_vote))
        assert refusal(peer) == "its log is not up to date: it ends at 2 of term 2, here at 3 of term 2"

    def test_a_vote_that_another_has(self) -> None:
        peer = follower(1)
        peer.step(vote(B, 2, 1, 1), vote(C, 2, 1, 1))
        assert refusal(peer) == "already voted for b"

    @pytest.mark.parametrize("pre_vote", [True, False])
    def test_a_leader_that_was_heard(self, pre_vote: bool) -> None:
        peer = follower(1)
        peer.step(Heartbeat(B, A, 1, 0, 0))
        peer.node.tick(3)
        assert peer.step(vote(C, 2, 1, 1, pre_vote)) == []
        assert refusal(peer) == "a leader was heard: b, 3 ticks ago"

    def test_a_leader_refuses_as_such(self) -> None:
        peer = leader_of(follower(1))
        peer.step(vote(C, 9, 9, 8))
        assert refusal(peer) == "a leader was heard: this node leads"

    @pytest.mark.parametrize(("term", "pre_vote"), [(4, False), (5, True)])
    def test_a_term_that_is_not_newer(self, term: int, pre_vote: bool) -> None:
        peer = follower(1, term=5)
        peer.step(vote(B, term, 9, 3, pre_vote))
        assert refusal(peer) == "its term is not newer"

    def test_a_node_that_is_no_member(self) -> None:
        peer = follower(1)
        peer.step(vote(NodeId("z", 9), 2, 9, 1))
        assert refusal(peer) == "not a member"
        peer.step(Heartbeat(NodeId("z", 9), A, 2, 0, 0))
        assert len(told(peer, "vote_refused")) == 1

    def test_a_message_for_another_is_nobodys_refusal(self) -> None:
        peer = follower(1)
        peer.step(RequestVote(B, NodeId("a", 7), 2, 1, 1, False))
        assert told(peer, "vote_refused") == [] and peer.node.ignored_messages == 1


class TestBounds:
    def test_the_same_refusal_is_told_once_and_then_now_and_then_with_a_count(self) -> None:
        peer = Peer(A, Configuration((A, B, C)), log=log_of(1, 1))
        minutes = 20
        for _ in range(minutes * 60 * 5):
            # Every 200 ms the leader is heard, and one that does not hear it asks; its distance differs each time.
            peer.node.tick(10)
            peer.node.step(Heartbeat(B, A, 1, 0, 0))
            peer.node.tick(10)
            peer.node.step(vote(C, 2, 1, 1, True))
        peer.pump()
        refusals = told(peer, "vote_refused")
        assert len(refusals) == minutes
        assert "repeats" not in refusals[0] and refusals[1]["repeats"] == 299

    def test_what_changes_is_told_at_once(self) -> None:
        peer = follower(1)
        peer.step(vote(B, 2, 1, 1, True))
        peer.step(Heartbeat(B, A, 1, 0, 0), vote(B, 2, 1, 1, True))
        peer.node.tick(40)
        peer.pump()
        peer.step(vote(B, 2, 1, 1, True))
        names = [event.name for event in peer.events if event.name.startswith("vote_")]
        assert names == ["vote_given", "vote_refused", "vote_given"]

    def test_many_strangers_are_not_remembered(self) -> None:
        peer = follower(1)
        for number in range(1000):
            peer.step(vote(NodeId("z", number), 2, 9, 1))
        assert len(peer.node._voter._reports._told) == 64

    def test_a_node_that_campaigns_in_vain_for_hours_is_one_event(self) -> None:
        """Its ring still shows what led to it, and so do the rings of those who are asked."""
        shard = Lockstep(5)
        shard.elect("a")
        shard.tick(6)
        ring = EventRing(64, 1 << 20, wall_us=lambda: 0, monotonic_us=lambda: 0)
        # Two of five hear each other alone: each asks the other, and neither finds a majority.
        shard.cut("d", "e")
        for peer in shard.peers.values():
            peer.events.clear()
        shard.tick(6000)
        events: list[Event] = shard["d"].events
        for event in events:
            ring.add(event.name, int(str(event.fields.get("term", 0))), dict(event.fields))
        assert shard["d"].plays(Role.PRE_CANDIDATE) or shard["d"].plays(Role.FOLLOWER)
        assert len([event for event in events if event.name == "became_pre_candidate"]) > 100
        assert len(ring) < 20 and ring.forgotten == 0

    def test_repeated_answers_to_one_candidate_are_one_event(self) -> None:
        peer = Peer(A, Configuration((A, B, C)), log=log_of(1), hard_state=HardState(1))
        for _ in range(50):
            answers = peer.step(vote(B, 2, 1, 1))
            assert answers == [RequestVoteResponse(A, B, 2, True, False)]
        assert len(told(peer, "vote_given")) == 1
