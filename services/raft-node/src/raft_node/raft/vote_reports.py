"""The reports of a member's votes: each new answer is told, and the same one again only now and then.

A node that cannot be elected asks several times a second, for hours if need be. Who reads the timeline wants to know
that, why it is refused, and what led to it.

Invariant: of each asker and kind of vote one event leaves in ``_REPEAT_TIMEOUTS`` election timeouts, unless the answer
changes; at most ``_ASKERS_MAX`` askers are remembered, however many strangers ask.
"""

from __future__ import annotations

from dataclasses import dataclass

from raft_node.raft.messages import RequestVote
from raft_node.raft.outbox import Outbox
from raft_node.raft.types import NodeId

_REPEAT_TIMEOUTS = 200
_ASKERS_MAX = 64


@dataclass(slots=True)
class _Told:
    """The last report: which answer it told, when, and how often that answer was given since."""

    answer: tuple[int, str]
    tick: int
    repeats: int = 0


class VoteReports:
    """Reports the votes that a member gave or refused, as events, but not each repetition."""

    __slots__ = ("_outbox", "_repeat_ticks", "_told")

    def __init__(self, outbox: Outbox, election_timeout_ticks_max: int) -> None:
        self._outbox = outbox
        self._repeat_ticks = _REPEAT_TIMEOUTS * election_timeout_ticks_max
        self._told: dict[tuple[NodeId, bool], _Told] = {}

    def given(self, message: RequestVote, term: int, now: int) -> None:
        """Reports that a candidate got the vote, or would get it."""
        self._tell("vote_given", "", "", message, term, now)

    def refused(self, why: str, details: str, message: RequestVote, term: int, now: int) -> None:
        """Reports that a candidate did not get the vote.

        Args:
            why: The kind of reason; a repetition of the same is not reported at once.
            details: The details of the reason, which may differ each time.
            message: The request for the vote.
            term: The member's own term.
            now: The tick.
        """
        self._tell("vote_refused", why, details, message, term, now)

    def _tell(self, name: str, why: str, details: str, message: RequestVote, term: int, now: int) -> None:
        key, answer = (message.sender, message.pre_vote), (term, why)
        told = self._told.pop(key, None)
        if told is not None and told.answer == answer and now - told.tick < self._repeat_ticks:
            told.repeats += 1
            self._told[key] = told
            return
        fields: dict[str, object] = {"candidate": message.sender.name, "pre_vote": message.pre_vote}
        if why:
            fields["reason"] = f"{why}: {details}" if details else why
        if told is not None and told.answer == answer:
            fields["repeats"] = told.repeats
        self._outbox.event(name, term=term, asked_term=message.term, **fields)
        self._told[key] = _Told(answer, now)
        if len(self._told) > _ASKERS_MAX:
            del self._told[next(iter(self._told))]
