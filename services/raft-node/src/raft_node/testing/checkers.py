"""The invariants of Raft, checked after every step of a simulation.

The checkers see what the nodes do from outside: what they send, what becomes durable, what they apply and answer. They
know the protocol only as the figures of the paper state it, share no code with the core, and never influence a run.

Invariants that they check (figure 3 of the paper, and what a client relies on):

``election_safety``          at most one leader a term, and never the same node in two lives
``one_vote_a_term``          a node grants its vote to one candidate a term
``vote_durable``             a granted vote is on disk before it is sent
``acknowledgement_durable``  what a follower acknowledges is on its disk, and so is the term
``log_matching``             equal index and term mean equal entries and equal logs before them
``commit_rule``              a leader commits by counting only from an entry of its own term on
``commit_durable``           what is committed is on the disks of a majority
``leader_completeness``      every leader's log holds all that was committed in earlier terms
``state_machine_safety``     all nodes apply the same entry at an index, and reach the same state
``committed_never_shrinks``  no node's commit index goes back, and no committed entry is truncated
``term_never_shrinks``       no node's term goes back, neither in memory nor on disk
``read_index_fresh``         a confirmed read sees all that anybody had committed when it was asked for
``acknowledged_durable``     what a client was told is written is on the disks of a majority

Linearizability is judged at the end of a run, by ``raft_node.testing.linearizability``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from raft_node.entry import Entry
from raft_node.raft.messages import AppendEntriesResponse, Message, RequestVoteResponse
from raft_node.raft.types import HardState, LogReader, NodeId


class InvariantViolationError(AssertionError):
    """An invariant does not hold. ``invariant`` is its name in the module's list."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant
        self.what = what


class _Committed(NamedTuple):
    term: int
    committed_in: int
    digest: bytes


class _Observed(NamedTuple):
    life: int = 0
    term: int = 0
    commit_index: int = 0
    led_from: int = 0
    led_term: int = 0


def _require(condition: bool, invariant: str, what: str) -> None:
    if not condition:
        raise InvariantViolationError(invariant, what)


def _digest(entry: Entry) -> bytes:
    return blake2b(entry.data, digest_size=8).digest()


class Checkers:
    """Watches all nodes of one shard.

    Args:
        logs: Every node's durable log, also while the node is down.
        initial: The entries that every log begins with; they count as committed.
    """

    def __init__(self, logs: Mapping[str, LogReader], initial: Sequence[Entry]) -> None:
        self._logs = logs
        self._quorum = len(logs) // 2 + 1
        self._leaders: dict[int, tuple[str, int]] = {}
        self._votes: dict[tuple[str, int], NodeId] = {}
        self._entries: dict[tuple[int, int], tuple[bytes, int]] = {}
        self._committed: list[_Committed] = []
        self._states: dict[int, bytes] = {}
        self._nodes: dict[str, _Observed] = dict.fromkeys(logs, _Observed())
        previous = 0
        for entry in initial:
            self._register(entry, previous)
            self._committed.append(_Committed(entry.term, entry.term, _digest(entry)))
            previous = entry.term

    @property
    def leaders(self) -> int:
        """How many terms had a leader."""
        return len(self._leaders)

    @property
    def committed_index(self) -> int:
        """The last entry that anybody ever committed."""
        return len(self._committed)

    def sent(self, name: str, message: Message, hard_state: HardState) -> None:
        """A node sends a message; ``hard_state`` is what lies on its disk."""
        if isinstance(message, RequestVoteResponse):
            if message.granted and not message.pre_vote:
                earlier = self._votes.setdefault((name, message.term), message.receiver)
                _require(
                    earlier == message.receiver,
                    "one_vote_a_term",
                    f"{name} voted in term {message.term} for {earlier.name} and for {message.receiver.name}",
                )
                _require(
                    hard_state.term > message.term
                    or (hard_state.term == message.term and hard_state.voted_for == message.receiver),
                    "vote_durable",
                    f"{name} grants {message.receiver.name} its vote in term {message.term} with {hard_state} on disk",
                )
        elif isinstance(message, AppendEntriesResponse) and message.success:
            last = self._logs[name].last_index
            _require(
                message.match_index <= last and message.term <= hard_state.term,
                "acknowledgement_durable",
                f"{name} acknowledges up to {message.match_index} in term {message.term}; on disk are entries up to "
                f"{last} and {hard_state}",
            )

    def writes(self, name: str, on_disk: HardState, hard_state: HardState | None, truncate_from: int | None) -> None:
        """A node is about to write; its disk still holds what it held."""
        if truncate_from is not None:
            log = self._logs[name]
            for index in range(truncate_from, min(log.last_index, len(self._committed)) + 1):
                _require(
                    log.term(index) != self._committed[index - 1].term,
                    "committed_never_shrinks",
                    f"{name} drops its entries from {truncate_from} on, with the committed one at {index}",
                )
        if hard_state is not None:
            what = f"{name} writes {hard_state} over {on_disk}"
            _require(hard_state.term >= on_disk.term, "term_never_shrinks", what)
            kept = hard_state.term > on_disk.term or on_disk.voted_for in (None, hard_state.voted_for)
            _require(kept, "one_vote_a_term", what)

    def became_durable(self, name: str, entries: Sequence[Entry]) -> None:
        """Entries of a node have come to its disk."""
        if entries:
            previous = self._logs[name].term(entries[0].index - 1)
            for entry in entries:
                self._register(entry, previous)
                previous = entry.term

    def observe(self, name: str, life: int, term: int, commit_index: int, last_index: int, *, leads: bool) -> None:
        """A node has been given something to do: what is it now?"""
        before = self._nodes[name]
        same_life = life == before.life
        if same_life:
            _require(term >= before.term, "term_never_shrinks", f"{name} goes from term {before.term} to {term}")
            _require(
                commit_index >= before.commit_index,
                "committed_never_shrinks",
                f"{name} goes from commit index {before.commit_index} to {commit_index}",
            )
        led_from, led_term = (before.led_from, before.led_term) if same_life else (0, 0)
        if leads and led_term != term:
            earlier = self._leaders.setdefault(term, (name, life))
            _require(
                earlier == (name, life),
                "election_safety",
                f"term {term} is led by {earlier[0]} (life {earlier[1]}) and by {name} (life {life})",
            )
            led_from, led_term = last_index, term
        if leads and same_life and commit_index > before.commit_index:
            _require(
                commit_index >= led_from,
                "commit_rule",
                f"{name} commits {commit_index} in term {term}, whose first entry is {led_from}",
            )
        self._nodes[name] = _Observed(life, term, commit_index, led_from, led_term)

    def led_log(self, name: str, term: int, terms: Sequence[int]) -> None:
        """A node has become leader; ``terms[i]`` is the term of its entry ``i`` (durable or not), from 0 on."""
        for index, committed in enumerate(self._committed, 1):
            if committed.committed_in < term:
                held = terms[index] if index < len(terms) else None
                _require(
                    held == committed.term,
                    "leader_completeness",
                    f"{name}, leader of term {term}, holds term {held} at {index}; committed in term "
                    f"{committed.committed_in} was the entry of term {committed.term}",
                )

    def committed(self, name: str, term: int, entries: Sequence[Entry]) -> None:
        """A node, in a term, takes entries for committed."""
        for entry in entries:
            digest = _digest(entry)
            if entry.index <= len(self._committed):
                known = self._committed[entry.index - 1]
                _require(
                    known.digest == digest,
                    "state_machine_safety",
                    f"{name} takes the entry of term {entry.term} for committed at {entry.index}; committed was that "
                    f"of term {known.term}",
                )
                continue
            _require(
                entry.index == len(self._committed) + 1, "state_machine_safety", f"{name} skips to entry {entry.index}"
            )
            self._require_majority("commit_durable", entry.index, entry.term, name)
            self._committed.append(_Committed(entry.term, term, digest))

    def applied(self, name: str, index: int, digest: bytes) -> None:
        """A node has applied an entry; ``digest`` is chained over its state."""
        known = self._states.setdefault(index, digest)
        _require(
            known == digest, "state_machine_safety", f"{name} has state {digest.hex()} at {index}, not {known.hex()}"
        )

    def read_confirmed(self, name: str, read_index: int, committed_before: int) -> None:
        """A read is confirmed at an index; ``committed_before`` is ``committed_index`` when it was asked for."""
        _require(
            read_index >= committed_before,
            "read_index_fresh",
            f"{name} confirms a read at {read_index}, which was asked for after {committed_before} was committed",
        )

    def acknowledged(self, name: str, index: int, term: int) -> None:
        """A client is told that its entry is written."""
        self._require_majority("acknowledged_durable", index, term, name)

    def _register(self, entry: Entry, previous_term: int) -> None:
        known = self._entries.setdefault((entry.index, entry.term), (_digest(entry), previous_term))
        _require(
            known == (_digest(entry), previous_term),
            "log_matching",
            f"two logs have different entries of term {entry.term} at {entry.index}, or different ones before it",
        )
        _require(entry.term >= previous_term, "log_matching", f"a term goes back at {entry.index}: {previous_term}")

    def _require_majority(self, invariant: str, index: int, term: int, name: str) -> None:
        holders = [who for who, log in self._logs.items() if log.last_index >= index and log.term(index) == term]
        _require(
            len(holders) >= self._quorum,
            invariant,
            f"entry {index} of term {term} counts for {name}, but lies on the disks of {holders} only",
        )
