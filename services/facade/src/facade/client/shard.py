"""One Raft cluster as the facade sees it: the queues of its operations, its nodes, and who leads it.

Writes and linearizable reads wait for whoever leads; other reads wait for whichever replica has its turn
(``facade.client.replicas``), and so do linearizable ones when too many wait for the leader. Operations leave a queue
only into a batch, so that a change of leader moves nothing. A leaf: it calls nobody above it, but hands answers and
operations whose stream has ended back to whoever asks; its events are there for those who wait. Must not wait itself,
know HTTP or the partition map, and ends no operation.

Invariants:
    1. Only an operation that is repeatable is taken back from a node that does not answer.
    2. ``leader_term`` never falls: hints of an older term are not believed.
    3. A node that owes an answer and has been silent for ``SILENT_S`` gets nothing more until it speaks.
    4. An answer to a bounded read counts only if it is fresh enough by the time that it is here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from math import ceil, inf

import structlog

from doug.v1 import admin_pb2, doug_pb2
from doug_wire import pipe
from doug_wire.pipe import Status
from facade.client.channels import Channels
from facade.client.link import Link, OutgoingBatch
from facade.client.metrics import Metrics, ShardState
from facade.client.modes import KIND_LABELS, LEADER_KINDS, READ_KINDS, REPLICA_KINDS, Kind
from facade.client.node import Node
from facade.client.operation import Load, Operation
from facade.client.replicas import BEHIND_S, SILENT_S, SLOW_FOR_S, SLOW_S, Replicas, answers
from facade.client.sessions import Sessions
from facade.client.tracing import contexts_for
from facade.client.waits import Waits
from facade.discovery.targets import Target
from facade.settings import Settings

REFUSED_S = 0.03
"""For this long no other node is believed that a node leads which just said that it does not lead in that term."""

log = structlog.get_logger()

Answer = tuple[Operation, pipe.ResultRecord]
"""An operation that is not in flight any more, and what a node said of it."""


class Shard:
    """One Raft cluster.

    Attributes:
        id: The shard's number.
        sessions: What is known of the generations of all shards.
        nodes: The shard's nodes by name.
        members: The names of the members as a leader last told them; None before that.
        leader: The node that is believed to lead; None while no node is.
        leader_term: The newest term that anybody was believed to lead in.
        ever_led: Whether a leader has ever been found.
        changed: An event that is set when nodes came or went, since each needs a session.
        in_question: An event that is set when all nodes are to be asked who leads (``facade.client.leader_search``).
        hurry: An event that is set when they are to be asked soon, because an operation waits or a node has come.
        waits: How long its requests have waited of late.
        unreachable: An event that is set when a node does not answer at the address that discovery names.
    """

    def __init__(
        self,
        shard_id: int,
        targets: Mapping[str, Target],
        settings: Settings,
        metrics: Metrics,
        channels: Channels,
        sessions: Sessions,
    ) -> None:
        self.id = shard_id
        self._settings = settings
        self._metrics, self._channels, self.sessions = metrics, channels, sessions
        self._spread_items, self._loop = settings.spread_reads_items, asyncio.get_running_loop()
        self.nodes = {node_id: self._make_node(node_id, target) for node_id, target in targets.items()}
        self._listed = tuple(targets)
        self.replicas = Replicas(self.nodes.values(), settings.zone)
        self.members: frozenset[str] | None = None
        self._incarnations: dict[str, int] = {}
        self.leader: Node | None = None
        self.leader_term = 0
        self.ever_led = False
        self._led_by, self._leader_since_s = ("", 0), 0.0
        self.changed, self.unreachable = asyncio.Event(), asyncio.Event()
        self._queues: dict[Kind, deque[Operation]] = {kind: deque() for kind in Kind}
        self.waits = Waits(settings.queue_wait_ms / 1000)
        self.in_question, self.hurry = asyncio.Event(), asyncio.Event()
        self.in_question.set()
        metrics.leader(shard_id, known=False)

    def _make_node(self, node_id: str, target: Target) -> Node:
        told = self._settings
        link = Link(told.pipe_window_batches, told.inflight_items_max, told.pipe_gather_us / 1e6)
        return Node(node_id, target, link, self._channels)

    # The nodes' addresses.

    @property
    def listed(self) -> tuple[Node, ...]:
        """The nodes that discovery names; leaders may have pointed to others."""
        return tuple(self.nodes[node_id] for node_id in self._listed)

    @property
    def expected(self) -> list[Node]:
        """The members, or before a leader told who they are, the nodes that discovery names."""
        names = self._listed if self.members is None else self.members
        return [node for node in self.nodes.values() if node.id in names]

    def update(self, targets: Mapping[str, Target]) -> None:
        """Takes over all nodes that discovery names now. An empty list changes nothing, for it is more likely wrong."""
        if not targets:
            return
        gone = [self.nodes[node_id] for node_id in self._listed if node_id not in targets]
        moved = [(old, t) for node_id, t in targets.items() if (old := self.nodes.get(node_id)) and old.is_moved(t)]
        new = [node_id for node_id in targets if node_id not in self.nodes]
        if not (gone or moved or new) and tuple(targets) == self._listed:
            return
        for node_id in new:
            self._add(node_id, targets[node_id])
        for old, target in moved:
            # Another process may have the old address now; the old connection may hang there for long.
            log.info("node.moved", shard=self.id, node=old.id, address=target.address)
            self._remove(old)
            self._add(old.id, target)
        self._listed = tuple(targets)
        for node in gone:
            if node.up:
                node.unlisted = True  # It still answers, so it may finish; it goes when its stream ends.
            else:
                self._remove(node)
        for node_id in targets:
            self.nodes[node_id].unlisted = False
        self.in_question.set()
        self.hurry.set()

    def _add(self, node_id: str, target: Target) -> Node:
        node = self.nodes[node_id] = self._make_node(node_id, target)
        self.replicas.add(node)
        self.changed.set()
        return node

    def _remove(self, node: Node) -> None:
        """Forgets a node. The operations in flight there come back when its session ends."""
        self._end_local_reads(node)
        del self.nodes[node.id]
        node.retire()
        self._doubt(node)
        self.changed.set()

    # Operations come in.

    def submit(self, operation: Operation) -> None:
        """Queues an operation; it is sent in this turn of the loop if there is room."""
        self._queues[operation.kind].append(operation)
        self._poke(operation.kind)

    def requeue(self, operation: Operation) -> None:
        """Queues an operation in front, because it waited before."""
        if not operation.future.done():
            self._queues[operation.kind].appendleft(operation)
            self._poke(operation.kind)

    def _poke(self, kind: Kind) -> None:
        if kind in REPLICA_KINDS:
            self._grant()
        elif self.leader is not None and self.leader.up and not self.leader.suspect:
            self.leader.wake()
            if kind is Kind.READ_LINEARIZABLE and len(self._queues[kind]) >= self._spread_items:
                self._grant_one(kind)
        else:
            self.hurry.set()

    def _again(self, operation: Operation, reason: str) -> None:
        """Takes an operation that is repeatable out of flight, to try it elsewhere at once."""
        batch = operation.batch
        assert batch is not None
        batch.link.take(operation.id)
        operation.uncertain = operation.uncertain or operation.kind is Kind.WRITE
        operation.sent_back(reason)
        self._metrics.retry(reason)
        self.requeue(operation)

    # Batches go out.

    def next_batch(self, node: Node) -> doug_pb2.Batch | None:
        """The next batch for this node; None when nothing may be sent now."""
        link, now_s = node.link, self._loop.time()
        if node.retired or not answers(node, now_s):
            return None
        cut, forward = None, False
        if node is self.leader:
            for kind in LEADER_KINDS:
                queue = self._queues[kind]
                if queue and link.has_room(kind):
                    if until_s := link.gathers_until_s(kind, len(queue), now_s):
                        node.wake_at(until_s)
                        continue
                    cut = link.cut(kind, queue, now_s)
                    if cut is not None:
                        break
        if cut is None and (node.granted or node.copies):
            if cut := self._cut_granted(node, now_s):
                self.replicas.took(node)
                forward = cut.kind is Kind.READ_LINEARIZABLE
            self._grant()
        if cut is None:
            return None
        self._metrics.batch(KIND_LABELS[cut.kind], cut.items)
        batch = doug_pb2.Batch(
            batch_id=cut.batch_id,
            kind=doug_pb2.BatchKind.ValueType(cut.kind),
            shard=self.id,
            records=cut.records,
            forward=forward,
            timed=self._settings.server_timing_enabled,
        )
        if cut.traced:
            batch.traces = contexts_for(cut.traced, node.id, cut.items)
        return batch

    def _cut_granted(self, node: Node, now_s: float) -> OutgoingBatch | None:
        """The next batch of the reads that it is a replica's turn to take."""
        if node.copies and node.link.has_room(Kind.READ_LOCAL):
            copies = node.link.cut(Kind.READ_LOCAL, node.copies, now_s)
            if copies is not None:  # Otherwise all of them are over.
                return copies
        granted, node.granted = node.granted, set()
        for kind in READ_KINDS:
            queue = self._queues[kind]
            if kind not in granted or not queue or not node.link.has_room(kind):
                continue
            if kind is Kind.READ_LINEARIZABLE and (self.leader_in_doubt() or len(queue) < self._spread_items):
                continue
            if cut := node.link.cut(kind, queue, now_s):
                if kind is Kind.READ_LINEARIZABLE:
                    self._metrics.spread_reads.inc(cut.items)
                return cut
        return None

    def _grant(self) -> None:
        """Gives reads that any replica may serve to the next one that is up, has room and answers."""
        for kind in REPLICA_KINDS:
            if self._queues[kind]:
                self._grant_one(kind)
        if len(self._queues[Kind.READ_LINEARIZABLE]) >= self._spread_items:
            self._grant_one(Kind.READ_LINEARIZABLE)

    def _grant_one(self, kind: Kind) -> None:
        node = self.replicas.choose(kind, self._loop.time(), self.leader if kind in LEADER_KINDS else None)
        if node is not None:
            node.granted.add(kind)
            node.wake()

    # Answers come back.

    def take_answers(self, node: Node, message: doug_pb2.BatchResult) -> list[Answer]:
        """Takes answered operations out of flight and returns them; notes what the message says of the leader.

        Raises:
            PipeError: The message is malformed; nothing of it counts.
        """
        self._metrics.messages_received.inc()
        receipt = message.receipt
        now_s = self._loop.time()
        shown = node.heard(message, self.sessions, now_s, timed=self._settings.server_timing_enabled)
        link = node.link
        link.finished.clear()  # Operations that were given up tell nothing about the time of answers.
        taken: list[Answer] = []
        staleness_ms = receipt.staleness_ms if receipt.HasField("staleness_ms") else None
        not_leader, first_sent_s = False, now_s
        # The whole message is read before any record is used: nothing of a damaged message counts.
        for result in list(pipe.decode_results(message.results)):
            operation = link.take(result.id)
            if operation is None:
                continue  # The operation timed out, or was sent to another node.
            operation.receipt = shown
            status = result.status
            if operation.kind in REPLICA_KINDS:
                first_sent_s = min(first_sent_s, operation.sent_s)
                if status == Status.NOT_FRESH:
                    node.behind_until_s = now_s + BEHIND_S
                elif operation.bound_ms and status in pipe.DECIDED and not operation.is_fresh(staleness_ms, now_s):
                    # The node kept the bound, but the way took long. A refusal, as of a moved slot, stays as it is.
                    result = result._replace(status=Status.NOT_FRESH)  # noqa: PLW2901
            not_leader = not_leader or status == Status.NOT_LEADER
            taken.append((operation, result))
        self.waits.heard(taken, now_s)
        if first_sent_s > now_s - SLOW_S:
            node.slow_until_s = 0.0
        if staleness_ms is not None:
            # The answer is older by at most the time of the whole way.
            shown.staleness_ms = staleness_ms + ceil(1000 * (now_s - first_sent_s))
        for batch in link.finished:
            if batch.kind in LEADER_KINDS:
                link.gather(batch, len(taken) + len(self._queues[batch.kind]), now_s)
            self._metrics.upstream(self.id, KIND_LABELS[batch.kind], now_s - batch.sent_at_s)
        if not node.retired:
            leader_id = "" if self.sessions.is_behind(self.id, shown.entry) else message.leader_id
            self._hear_of_leader(node, receipt.term, leader_id, message.leader_address, refused=not_leader)
        node.wake()
        self._grant()
        return taken

    def node_up(self, node: Node) -> None:
        """Notes that the node's stream is open."""
        node.link.reset(self._loop.time())
        # The node may run on another disk now, which its status tells: it is asked until it has told.
        node.up, node.suspect, node.known = not node.retired, False, False
        self.in_question.set()
        self.hurry.set()
        self._grant()

    def node_down(self, node: Node) -> list[Operation]:
        """Notes that the node's stream has ended; returns the operations in flight on it, oldest first."""
        node.up = False
        node.granted.clear()
        lost = node.link.reset(self._loop.time())
        self._doubt(node)
        if node.unlisted and not node.retired:
            self._remove(node)
        self.unreachable.set()
        self._grant()
        return lost

    def _doubt(self, node: Node) -> None:
        """Believes nobody any more that a node leads in this term, because the node was lost."""
        node.doubted_term, node.doubted_until_s = self.leader_term, inf
        if self.leader is node:
            self._set_leader(None, self.leader_term)

    # Time passes.

    def tick(self, now_s: float) -> None:
        """Opens windows, and stops waiting for nodes that have fallen silent. Called while anything is pending."""
        for queue in self._queues.values():
            while queue and queue[0].future.done():
                queue.popleft()
        for node in self.nodes.values():
            if not node.up:
                continue
            link = node.link
            if link.close_aged(now_s):
                node.wake()
            silent_s = link.silent_s(now_s)
            if silent_s > SILENT_S:
                node.suspect = True
                node.granted.clear()
                self.in_question.set()
                self._take_back(node, REPLICA_KINDS if node is self.leader else READ_KINDS)
            elif silent_s > SLOW_S and link.items(Kind.READ_LOCAL):
                node.slow_until_s = now_s + SLOW_FOR_S
                self._take_back(node, (Kind.READ_LOCAL,))
        self._grant()

    def _take_back(self, node: Node, kinds: tuple[Kind, ...]) -> None:
        """Takes repeatable operations away from a node that does not answer, to try them elsewhere."""
        found = [each for each in node.link.in_flight.values() if each.kind in kinds and each.repeatable]
        for operation in reversed(found):
            self._again(operation, "silent")

    # The leader.

    def _hear_of_leader(self, node: Node, term: int, leader_id: str, address: str, *, refused: bool) -> None:
        now_s = self._loop.time()
        if refused:
            self._metrics.redirected(self.id)
            node.doubted_term, node.doubted_until_s = term, now_s + REFUSED_S
            if self.leader is node:
                self._set_leader(None, self.leader_term)
        if not leader_id or term < self.leader_term or (term == self.leader_term and self.leader is not None):
            return
        target = self._node_named(leader_id, address)
        if target is None or (target.doubted_term >= term and now_s < target.doubted_until_s):
            return  # The node has newer knowledge, or is gone; the search asks again.
        self._set_leader(target, term)

    def pointed_elsewhere(self, node: Node, leader_id: str, address: str) -> None:
        """Takes the hint to another leader with which ``node`` refused a unary call."""
        self._hear_of_leader(node, self.leader_term, leader_id, address, refused=True)

    def leader_moved(self, node: Node, term: int, leader_id: str, address: str) -> None:
        """Takes over the leader to which ``node`` says that it has handed leadership."""
        self._hear_of_leader(node, term, leader_id, address, refused=True)

    def learn_members(self, answer: admin_pb2.MembersResponse) -> None:
        """Takes the members from a leader's answer: asks new ones, too, and none that left for local reads."""
        self.members = frozenset(member.name for member in answer.members)
        self._incarnations = {member.name: member.incarnation for member in answer.members}
        for member in answer.members:
            node = self._node_named(member.name, member.client_address)
            if node is not None:
                self._judge(node)
        for node in list(self.nodes.values()):
            if node.id not in self.members and node is not self.leader:
                if node.id not in self._listed:
                    self._remove(node)
                else:
                    self._end_local_reads(node)

    def _judge(self, node: Node) -> None:
        """Lets a member serve local reads, but not an old disk that came back under the member's name."""
        if node.incarnation and node.incarnation != self._incarnations.get(node.id, node.incarnation):
            self._end_local_reads(node)
        elif node not in self.replicas and node.id in self._incarnations:
            self.replicas.add(node)

    def _end_local_reads(self, node: Node) -> None:
        """Has a node serve no local reads any more."""
        node.granted.clear()
        self.replicas.remove(node)

    def _node_named(self, node_id: str, address: str) -> Node | None:
        node = self.nodes.get(node_id)
        if node is not None and address not in ("", node.address) and node_id not in self._listed:
            if node is self.leader:
                self._set_leader(None, self.leader_term)
            self._remove(node)
            node = None
        if node is None and address:
            node = self._add(node_id, Target(address))
        return node

    def _set_leader(self, node: Node | None, term: int) -> None:
        new = node is not None and (node.id, term) != self._led_by
        old, self.leader, self.leader_term = self.leader, node, term
        self._metrics.leader(self.id, known=node is not None)
        if node is None:
            self.in_question.set()
            return
        if new or old is None:
            self._leader_since_s = self._loop.time()
        if new:
            self.waits.forget()
            self._led_by = (node.id, term)
            log.info("shard.leader_changed", shard=self.id, leader=node.id, term=term)
        self.ever_led = True
        node.doubted_until_s = 0.0
        node.want()
        node.wake()
        if old is not None and old is not node:
            self._take_back(old, LEADER_KINDS)

    def _consider(self, node: Node, status: admin_pb2.StatusResponse) -> None:
        if status.role == "leader":
            newer = status.term > self.leader_term
            if newer or (status.term == self.leader_term and self.leader is None):
                self._set_leader(node, status.term)
        else:
            self._hear_of_leader(node, status.term, status.leader_id, status.leader_address, refused=False)

    def state(self, load: Load) -> ShardState:
        """The figures that the metrics show of this shard."""
        age_s = None if self.leader is None else self._loop.time() - self._leader_since_s
        return ShardState(load.items, load.size, not self.leader_in_doubt(), age_s)

    def leader_in_doubt(self) -> bool:
        """Whether no leader is known, or it is not connected, or owes an answer for long."""
        leader = self.leader
        return leader is None or not leader.up or not answers(leader, self._loop.time())

    def leader_awaited(self) -> bool:
        """Whether an operation waits that only a leader can answer."""
        return bool(self._queues[Kind.WRITE] or self._queues[Kind.READ_LINEARIZABLE])

    def all_speak(self) -> bool:
        """Whether the leader is known and answers, and no node is silent: then nobody has to be asked who leads."""
        return not self.leader_in_doubt() and all(node.speaks for node in self.nodes.values())

    def told(self, node: Node, status: admin_pb2.StatusResponse | None) -> None:
        """Takes a node's answer to the question who leads; None if none came in time."""
        if node.retired:
            return
        node.known = node.known and status is not None
        if status is not None:
            self._consider(node, status)
            self._judge(node)
            node.wake()
            self._grant()
        elif node is self.leader and not node.up:
            self._doubt(node)  # Another node named it as the leader, but it cannot be reached.
