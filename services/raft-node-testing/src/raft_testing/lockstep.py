"""Runs Raft cores without time and chance, for tests of single messages.

Unlike the simulator, nothing here happens by itself: a test decides when a write becomes durable, which link is cut,
and which node ticks. Use the simulator for properties that only many interleavings show.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from raft_node.entry import Entry, EntryKind, encode
from raft_node.raft.config import RaftConfig
from raft_node.raft.leader import Leader
from raft_node.raft.messages import Message, RequestVote, RequestVoteResponse
from raft_node.raft.node import RaftNode
from raft_node.raft.ready import Event
from raft_node.raft.types import Configuration, HardState, NodeId, Proposal, ReadState, Role, Write


def members(count: int) -> tuple[NodeId, ...]:
    """``count`` members: a, b, c ..."""
    return tuple(NodeId("abcdefghi"[i], 100 + i) for i in range(count))


def log_of(*terms: int, size: int = 0) -> list[Entry]:
    """A log whose entries have these terms, from index 1 on."""
    return [encode(i, term, EntryKind.COMMAND, i, bytes(size)) for i, term in enumerate(terms, 1)]


def commands(count: int, size: int = 0) -> list[Proposal]:
    """``count`` proposals of ``size`` bytes."""
    return [Proposal(EntryKind.COMMAND, bytes(size), None)] * count


class MemoryLog:
    """A log store in memory; a ``LogReader``."""

    def __init__(self, entries: Iterable[Entry] = (), first_index: int = 1, previous_term: int = 0) -> None:
        self.stored = list(entries)
        self.first_index = first_index
        self.previous_term = previous_term
        self.reads = 0

    @property
    def last_index(self) -> int:
        """The last entry."""
        return self.first_index + len(self.stored) - 1

    def term(self, index: int) -> int:
        """The term of an entry."""
        assert self.first_index - 1 <= index <= self.last_index
        if index == self.first_index - 1:
            return self.previous_term
        return self.stored[index - self.first_index].term

    @property
    def configurations(self) -> Sequence[int]:
        """The indexes of the CONFIGURATION entries."""
        return [entry.index for entry in self.stored if entry.kind == EntryKind.CONFIGURATION]

    def entries(self, start: int, end: int, bytes_max: int) -> Sequence[Entry]:
        """The entries, cut after the one that reaches ``bytes_max``."""
        assert self.first_index <= start <= end <= self.last_index + 1
        self.reads += 1
        size, found = 0, []
        for entry in self.stored[start - self.first_index : end - self.first_index]:
            found.append(entry)
            size += len(entry.data)
            if size >= bytes_max:
                break
        return found

    def compact(self, index: int) -> None:
        """Drops the entries up to ``index``."""
        assert self.first_index <= index <= self.last_index
        self.previous_term = self.term(index)
        del self.stored[: index + 1 - self.first_index]
        self.first_index = index + 1

    def reset(self, index: int, term: int) -> None:
        """Begins behind a snapshot; entries behind it stay only if the entry at ``index`` has ``term``."""
        if self.first_index - 1 <= index <= self.last_index and self.term(index) == term:
            del self.stored[: index + 1 - self.first_index]
        else:
            self.stored.clear()
        self.first_index, self.previous_term = index + 1, term

    def write(self, write: Write) -> None:
        """Carries out a write as a log writer does."""
        if write.truncate_from is not None:
            # After a snapshot the log may end before what was to be dropped.
            assert write.entries[0].index == write.truncate_from <= self.last_index + 1
            del self.stored[write.truncate_from - self.first_index :]
        if write.entries:
            assert write.entries[0].index == self.last_index + 1, "a gap in the stored log"
            self.stored.extend(write.entries)


class Peer:
    """A core, its log, and its output so far."""

    def __init__(
        self,
        node_id: NodeId,
        configuration: Configuration,
        *,
        config: RaftConfig | None = None,
        log: Iterable[Entry] = (),
        hard_state: HardState | None = None,
        seed: int = 1,
    ) -> None:
        self.id = node_id
        self.config = config or RaftConfig()
        self.configuration = configuration
        self.log = MemoryLog(log)
        self.hard_state = hard_state or HardState(max([entry.term for entry in self.log.stored], default=0))
        self.random = random.Random(seed)  # noqa: S311 - a test must be repeatable
        self.restart()

    def restart(self, applied_index: int = 0) -> None:
        """Crashes and starts again: only durable data are left."""
        self.write: Write | None = None
        self.committed: list[Entry] = []
        self.read_states: list[ReadState] = []
        self.reads_dropped: list[int] = []
        self.events: list[Event] = []
        self.snapshots_wanted: list[NodeId] = []
        self.node = RaftNode(
            self.config, self.id, self.log, self.hard_state, self.configuration, applied_index, self.random
        )

    def pump(self, *, persist: bool = True, apply: bool = True) -> list[Message]:
        """Carries out the driver's duties until there are none left; returns the messages to send."""
        messages: list[Message] = []
        if persist:
            self.persist()
        while ready := self.node.ready(self.write is None):
            messages += ready.messages
            self.read_states += ready.read_states
            self.reads_dropped += ready.reads_dropped
            self.events += ready.events
            self.snapshots_wanted += ready.snapshots_wanted
            if ready.write:
                self.write = ready.write
                if persist:
                    self.persist()
            self.committed += ready.committed
            if ready.committed and apply:
                self.node.applied(ready.committed[-1].index)
            self.node.validate()
        return messages

    def persist(self) -> None:
        """Finishes the write under way, if there is one."""
        if self.write is not None:
            write, self.write = self.write, None
            self.log.write(write)
            self.hard_state = write.hard_state or self.hard_state
            self.node.persisted(write.sequence)

    def restore(self, index: int, term: int, configuration: Configuration) -> bool:
        """Installs a snapshot, as a driver does; earlier entries are not in ``committed`` any more."""
        if not self.node.restore(index, term, configuration):
            return False
        # A write under way comes to its end first.
        self.persist()
        self.log.reset(index, term)
        self.configuration = configuration
        self.committed.clear()
        self.node.validate()
        return True

    def step(self, *messages: Message, persist: bool = True) -> list[Message]:
        """Hands messages to the core; returns the messages that it sends."""
        for message in messages:
            self.node.step(message)
            self.node.validate()
        return self.pump(persist=persist)

    def tick_to_deadline(self) -> None:
        """Lets ticks pass up to the moment at which the node acts by itself."""
        self.node.tick(self.node.ticks_to_deadline())

    def plays(self, role: Role) -> bool:
        """Whether the node has a role now."""
        return self.node.role is role

    @property
    def terms(self) -> list[int]:
        """The terms along the whole log."""
        return [self.node.log.term(i) for i in range(1, self.node.last_index + 1)]

    def event_names(self) -> list[str]:
        """The names of the events so far."""
        return [event.name for event in self.events]


class Lockstep:
    """A shard whose messages are delivered at once, unless a test holds them.

    Attributes:
        passes: Decides which messages get through.
        delivered: How many messages of each kind got through.
    """

    def __init__(
        self, count: int, *, config: RaftConfig | None = None, logs: Sequence[Iterable[Entry]] = (), term: int = 0
    ) -> None:
        ids = members(count)
        self.configuration = Configuration(ids)
        self.peers = {
            node_id.name: Peer(
                node_id,
                self.configuration,
                config=config,
                log=logs[i] if i < len(logs) else (),
                hard_state=HardState(term) if term else None,
                seed=i,
            )
            for i, node_id in enumerate(ids)
        }
        self.passes: Callable[[Message], bool] = lambda message: True
        self.delivered: Counter[str] = Counter()

    def __getitem__(self, name: str) -> Peer:
        return self.peers[name]

    def deliver(self) -> None:
        """Delivers messages until there are none left."""
        busy = True
        while busy:
            busy = False
            for peer in self.peers.values():
                for message in peer.pump():
                    busy = True
                    if self.passes(message) and message.receiver.name in self.peers:
                        self.delivered[type(message).__name__] += 1
                        self.peers[message.receiver.name].node.step(message)

    def join(self, node_id: NodeId, configuration: Configuration | None = None, seed: int = 9) -> Peer:
        """Starts one more node, with an empty log. It is no member yet, and may know another configuration."""
        some = next(iter(self.peers.values()))
        peer = Peer(node_id, configuration or self.configuration, config=some.config, seed=seed)
        self.peers[node_id.name] = peer
        return peer

    def change(self, leader: Peer, configuration: Configuration) -> None:
        """Lets the leader change the members, and delivers the change to all nodes."""
        leader.node.propose_configuration(configuration, 0)
        self.deliver()
        self.tick(2 * leader.config.heartbeat_ticks)

    def elect(self, name: str) -> Peer:
        """Makes a node the leader: time passes only for this node until it campaigns."""
        for peer in self.peers.values():
            if peer.node.role is not Role.LEADER:
                # What was heard of an earlier leader is forgotten by waiting, without anybody's timeout running out.
                peer.node.tick(min(self.quiet_ticks(peer), peer.config.election_timeout_ticks))
        peer = self.peers[name]
        peer.tick_to_deadline()
        self.deliver()
        assert peer.node.role is Role.LEADER, f"{name} was not elected"
        return peer

    @staticmethod
    def quiet_ticks(peer: Peer) -> int:
        """How long a node may wait without acting."""
        return max(0, peer.node.ticks_to_deadline() - 1)

    def tick(self, ticks: int = 1) -> None:
        """Lets time pass for all, tick by tick, with everything delivered."""
        for _ in range(ticks):
            for peer in self.peers.values():
                peer.node.tick()
            self.deliver()

    def cut(self, *names: str) -> None:
        """Cuts these nodes off from all others."""
        self.passes = lambda message: (message.sender.name in names) == (message.receiver.name in names)

    def heal(self) -> None:
        """Lets every message through again."""
        self.passes = lambda message: True

    def leaders(self) -> list[str]:
        """The names of the nodes that lead."""
        return [name for name, peer in self.peers.items() if peer.node.role is Role.LEADER]


def follower(*terms: int, term: int | None = None) -> Peer:
    """The first of five members by itself, with a log of these terms."""
    ids = members(5)
    return Peer(
        ids[0],
        Configuration(ids),
        log=log_of(*terms),
        hard_state=HardState(term if term is not None else max(terms, default=0)),
    )


def vote(
    sender: NodeId, term: int, index: int, log_term: int, pre_vote: bool = False, transfer: bool = False
) -> RequestVote:
    """A request for the first member's vote; ``index`` and ``log_term`` are those of the sender's last entry."""
    return RequestVote(sender, members(1)[0], term, index, log_term, pre_vote, transfer)


def leader_of(peer: Peer) -> Peer:
    """Makes a lone peer of five the leader of its next term, with the votes of the second and the third."""
    peer.tick_to_deadline()
    peer.pump()
    term = peer.node.term
    voters = members(3)[1:]
    peer.step(*[RequestVoteResponse(x, peer.id, term + 1, True, True) for x in voters])
    peer.step(*[RequestVoteResponse(x, peer.id, term + 1, True, False) for x in voters])
    assert peer.plays(Role.LEADER)
    return peer


def given(messages: Sequence[Message]) -> bool:
    """Whether the only message is a granted vote."""
    (answer,) = messages
    assert isinstance(answer, RequestVoteResponse)
    return answer.granted


def leading(peer: Peer) -> Leader:
    """The leader state of a peer that leads."""
    assert peer.node.leadership is not None
    return peer.node.leadership
