"""The invariants of Raft, checked after every step of a simulation.

The checkers see the nodes from outside: the messages sent, the entries made durable, applied and answered. They
know the protocol only as the figures of the paper state it, share no code with the core, and never influence a run.

Invariants that they check (figure 3 of the paper, and what a client relies on):

``election_safety``          at most one leader a term, and never the same node in two lives
``one_vote_a_term``          a node grants its vote to one candidate a term
``vote_durable``             a granted vote is on disk before it is sent
``acknowledgement_durable``  entries that a follower acknowledges are on its disk, and so is the term
``log_matching``             equal index and term mean equal entries and equal logs before them
``commit_rule``              a leader commits by counting only from an entry of its own term on
``commit_durable``           a committed entry is on the disks of a majority of the leader's configuration
``leader_completeness``      every leader's log holds all that was committed in earlier terms
``state_machine_safety``     all nodes apply the same entry at an index, and reach the same state
``committed_never_shrinks``  no node's commit index goes back, and no committed entry is truncated
``term_never_shrinks``       no node's term goes back, neither in memory nor on disk
``read_index_fresh``         a confirmed read sees every entry that was committed when the read was asked for
``acknowledged_durable``     an entry that was acknowledged or committed stays on so many disks that the
                             other voters are no majority, whichever nodes have lost a disk since
``state_never_shrinks``      no node's durable state goes back to an earlier entry, over all its lives
``snapshot_correct``         a snapshot is the state of all at its index, with its term and configuration

The invariants of the members are in ``raft_testing.configurations``.

Linearizability is judged at the end of a run, by ``raft_testing.linearizability``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from raft_node.entry import Entry
from raft_node.raft.messages import AppendEntriesResponse, Message, RequestVoteResponse
from raft_node.raft.types import Configuration, HardState, LogReader, NodeId
from raft_testing.configurations import ConfigurationChecker, majority
from raft_testing.machine import Head


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
        initial: The entries that the first members' logs begin with; they count as committed.
        identities: The present identity of each node, by name; a lost disk gives a node another incarnation.

    Attributes:
        configurations: The checker of the members.
        newest_led_term: The newest term that had a leader.
    """

    def __init__(
        self, logs: Mapping[str, LogReader], initial: Sequence[Entry], identities: Mapping[str, NodeId] | None = None
    ) -> None:
        self._logs = dict(logs)
        self._identities = dict(identities or {name: NodeId(name, 1) for name in logs})
        self.configurations = ConfigurationChecker(_require)
        self.newest_led_term = 0
        self._quorum_index = 0
        self._state_indexes = dict.fromkeys(logs, 0)
        self._lost: dict[NodeId, tuple[LogReader, int]] = {}
        self._leaders: dict[int, tuple[str, int]] = {}
        self._votes: dict[tuple[NodeId, int], NodeId] = {}
        self._entries: dict[tuple[int, int], tuple[bytes, int]] = {}
        self._committed: list[_Committed] = []
        self._states: dict[int, bytes] = {}
        self._nodes: dict[str, _Observed] = dict.fromkeys(logs, _Observed())
        previous = 0
        for entry in initial:
            self._register(entry, previous)
            self._committed.append(_Committed(entry.term, entry.term, _digest(entry)))
            self.configurations.committed(entry)
            self._quorum_index = entry.index
            previous = entry.term

    @property
    def leaders(self) -> int:
        """How many terms had a leader."""
        return len(self._leaders)

    @property
    def committed_index(self) -> int:
        """The index of the last entry that any node ever committed."""
        return len(self._committed)

    def sent(self, name: str, message: Message, hard_state: HardState) -> None:
        """A node sends a message; ``hard_state`` is the one on its disk."""
        if isinstance(message, RequestVoteResponse):
            if message.granted and not message.pre_vote:
                earlier = self._votes.setdefault((message.sender, message.term), message.receiver)
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
            last = max(self._logs[name].last_index, self._state_indexes[name])
            _require(
                message.match_index <= last and message.term <= hard_state.term,
                "acknowledgement_durable",
                f"{name} acknowledges up to {message.match_index} in term {message.term}; on disk are entries up to "
                f"{last} and {hard_state}",
            )

    def writes(self, name: str, on_disk: HardState, hard_state: HardState | None, truncate_from: int | None) -> None:
        """A node is about to write; nothing has changed on its disk yet."""
        if truncate_from is not None:
            log = self._logs[name]
            for index in range(max(truncate_from, log.first_index), min(log.last_index, len(self._committed)) + 1):
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
        """Entries have become durable on a node's disk."""
        if entries:
            previous = self._logs[name].term(entries[0].index - 1)
            for entry in entries:
                self._register(entry, previous)
                previous = entry.term

    def observe(self, name: str, life: int, term: int, commit_index: int, last_index: int, *, leads: bool) -> None:
        """A node has taken a step; the arguments are its state after it."""
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
            self.newest_led_term = max(self.newest_led_term, term)
        if leads and same_life and commit_index > before.commit_index:
            _require(
                commit_index >= led_from,
                "commit_rule",
                f"{name} commits {commit_index} in term {term}, whose first entry is {led_from}",
            )
        if leads:
            self.configurations.observed(name, commit_index, led_from, term)
        self._nodes[name] = _Observed(life, term, commit_index, led_from, led_term)

    def leader_commits(self, name: str, index: int, entry_term: int, configuration: Configuration) -> None:
        """A leader has committed all entries up to an index, by the configuration in its log."""
        held = self._holders(index, entry_term)
        # Entries on a disk that was lost since were acknowledged rightly, and count.
        holders = [node.name for node in configuration.voters if node in held]
        _require(
            len(holders) >= majority(configuration),
            "commit_durable",
            f"entry {index} of term {entry_term} counts for {name}, but lies on the disks of {holders} only, of "
            f"{[node.name for node in configuration.voters]}",
        )
        self._quorum_index = max(self._quorum_index, index)

    def led_log(self, name: str, term: int, terms: Sequence[int], first: int = 0) -> None:
        """A node has become leader; ``terms[i]`` is the term of its entry ``first + i``, durable or not.

        Entries before ``first`` are in its state, whose hash is checked elsewhere.
        """
        for index, committed in enumerate(self._committed[max(0, first - 1) :], max(1, first)):
            if committed.committed_in < term:
                held = terms[index - first] if index - first < len(terms) else None
                _require(
                    held == committed.term,
                    "leader_completeness",
                    f"{name}, leader of term {term}, holds term {held} at {index}; committed in term "
                    f"{committed.committed_in} was the entry of term {committed.term}",
                )

    def committed(self, name: str, term: int, entries: Sequence[Entry]) -> None:
        """A node, in a term, has learned that entries are committed."""
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
            _require(
                entry.index <= self._quorum_index,
                "commit_durable",
                f"{name} takes entry {entry.index} for committed; no leader has, beyond {self._quorum_index}",
            )
            self.configurations.committed(entry)
            self._committed.append(_Committed(entry.term, term, digest))

    def applied(self, name: str, index: int, digest: bytes) -> None:
        """A node has applied an entry; ``digest`` is the hash of its state."""
        known = self._states.setdefault(index, digest)
        _require(
            known == digest, "state_machine_safety", f"{name} has state {digest.hex()} at {index}, not {known.hex()}"
        )

    def read_confirmed(self, name: str, read_index: int, committed_before: int) -> None:
        """A read is confirmed at an index; ``committed_before`` is ``committed_index`` at the time of its request."""
        _require(
            read_index >= committed_before,
            "read_index_fresh",
            f"{name} confirms a read at {read_index}, which was asked for after {committed_before} was committed",
        )

    def acknowledged(self, name: str, index: int, term: int) -> None:
        """A client is told that its entry was applied."""
        self._require_kept(index, term, f"acknowledged by {name}")

    def snapshot(self, name: str, head: Head) -> None:
        """A node is about to send, or to install, a snapshot."""
        index = head.applied_index
        what = f"{name} has a snapshot up to {index} of term {head.applied_term}"
        _require(index <= len(self._committed), "snapshot_correct", f"{what}; committed is {len(self._committed)}")
        term = self._committed[index - 1].term if index else 0
        _require(head.applied_term == term, "snapshot_correct", f"{what}; committed was that of term {term}")
        known = self._states.get(index, head.digest)
        _require(known == head.digest, "snapshot_correct", f"{what}, and another state than the others there")
        self.configurations.state(name, index, head.configuration)

    def state_durable(self, name: str, index: int) -> None:
        """A node's state is durable up to an index."""
        before = self._state_indexes[name]
        _require(index >= before, "state_never_shrinks", f"{name} had a state up to {before}, and now up to {index}")
        self._state_indexes[name] = index

    def disk_changed(self, name: str) -> None:
        """A node has lost or truncated entries: the committed ones must still be kept."""
        if self._committed:
            self._require_kept(len(self._committed), self._committed[-1].term, f"after {name} changed its disk")

    def wiped(self, name: str, log: LogReader, identity: NodeId) -> None:
        """A node has a new, empty disk, and another identity from now on."""
        self._lost[self._identities[name]] = self._logs[name], self._state_indexes[name]
        self._logs[name], self._identities[name], self._state_indexes[name] = log, identity, 0
        self.disk_changed(name)

    def _register(self, entry: Entry, previous_term: int) -> None:
        known = self._entries.setdefault((entry.index, entry.term), (_digest(entry), previous_term))
        _require(
            known == (_digest(entry), previous_term),
            "log_matching",
            f"two logs have different entries of term {entry.term} at {entry.index}, or different ones before it",
        )
        _require(entry.term >= previous_term, "log_matching", f"a term goes back at {entry.index}: {previous_term}")
        self.configurations.registered(entry)

    def _holders(self, index: int, term: int) -> set[NodeId]:
        """The nodes that have an entry on disk, in the log or in the state, or had it on a disk that was lost."""
        disks = {self._identities[name]: (log, self._state_indexes[name]) for name, log in self._logs.items()}
        return {
            who
            for who, (log, state_index) in (disks | self._lost).items()
            if (log.first_index - 1 <= index <= log.last_index and log.term(index) == term) or state_index >= index
        }

    def _require_kept(self, index: int, term: int, what: str) -> None:
        configuration = self.configurations.newest
        if configuration is None:
            return
        held = self._holders(index, term)
        # A voter whose disk was lost never votes again; all others that lack the entry might elect one of them.
        alive = [node for node in configuration.voters if self._identities.get(node.name) == node]
        lacking = [node.name for node in alive if node not in held]
        _require(
            len(lacking) < majority(configuration),
            "acknowledged_durable",
            f"entry {index} of term {term}, {what}, is not on the disks of {lacking}, who are a majority of "
            f"{[node.name for node in configuration.voters]}",
        )
