"""Simulated clients that use all operations: conditions, expiry, counters, tokens, transactions, batches, scans.

Each sends one request after the other, as ``raft_testing.clients`` do. A write with an idempotency key is sent again,
with the same bytes, until it is answered, and sometimes once more after that. They check that

1. all answers to one idempotency key are the same, and all but the first say that they are replayed;
2. a request that was sent after another one returned is at a later place in the log (a read: at no earlier one).

``raft_testing.replica_store`` checks that each answer is right for its place in the log.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from doug_wire import command as commands
from doug_wire.pipe import ResultRecord, Status
from raft_node.entry import EntryKind
from raft_node.raft.types import Proposal
from raft_testing.checkers import InvariantViolationError
from raft_testing.cluster import Cluster
from raft_testing.environment import Outcome
from raft_testing.replica_store import Told
from raft_testing.wishes import Request, Wishes

RETRY_US = 15_000
TRIES_MAX = 12


class Records:
    """The answers to all clients of a run."""

    def __init__(self) -> None:
        self.ended = 0
        self.answered = 0
        self._places: list[tuple[int, int, int, bool]] = []
        self._first: dict[str, ResultRecord] = {}

    def answer(self, request: Request, told: Told, called_us: int, now_us: int) -> None:
        """Notes the answer to a request.

        Raises:
            InvariantViolationError: An earlier answer to the same idempotency key was different.
        """
        self.answered += 1
        self._places.append((called_us, now_us, told.at, not request.command))
        result = told.result
        if not request.token or result.status in (Status.WRONG_SHARD, Status.TOKENS_FULL, Status.TOKEN_REUSED):
            return
        token = request.token
        if not result.replayed:
            # The token may have been dropped meanwhile, so that the request is carried out once more.
            self._first[token] = result
            return
        first = self._first.get(token)
        if first is not None and first != result._replace(replayed=False):
            raise InvariantViolationError("exactly_once", f"{token} is answered with {first}, then with {result}")

    def check_order(self) -> str:
        """The first contradiction to the order of the log, as a sentence; empty if there is none."""
        returned = sorted(self._places, key=lambda place: place[1])
        latest, position = 0, 0
        for called_us, _, index, reads in sorted(self._places):
            while position < len(returned) and returned[position][1] < called_us:
                latest = max(latest, returned[position][2])
                position += 1
            if index < latest or (index == latest and not reads):
                return f"a request of {called_us} is at {index}, though one at {latest} had been answered before"
        return ""


class OperationClient:
    """One client."""

    def __init__(self, cluster: Cluster, records: Records, number: int, pause_us: int) -> None:
        self.active = True
        self._cluster = cluster
        self._chance: random.Random = cluster.chance
        self._records = records
        self._pause_us = pause_us
        self._wishes = Wishes(self._chance, str(number))
        self._names = list(cluster.nodes)
        self._target = self._chance.choice(self._names)
        self._deadline_us = self._chance.choice((50_000, 150_000, 600_000))
        self._attempt = 0
        self._wait(pause_us, self._begin)

    def _begin(self) -> None:
        if not self.active:
            return
        if self._chance.random() < 0.03:
            self._target = self._chance.choice(self._names)
        self._try(self._wishes.draw(), self._cluster.clock.now_us, TRIES_MAX)

    def _try(self, request: Request, called_us: int, tries: int) -> None:
        self._attempt += 1
        attempt = self._attempt
        clock = self._cluster.clock

        def outcome(status: str, value: str | None = None, leader: str = "") -> None:
            delay_us = 100 + int(self._chance.random() * 1_000)
            clock.call_later(delay_us, answered, status, value, leader)

        def answered(status: str, value: str | None, leader: str) -> None:
            if attempt != self._attempt:
                return
            self._attempt += 1
            if status == "ok" and value is not None:
                self._take(request, Told.decode(value), called_us)
                return
            self._target = leader if leader in self._cluster.nodes else self._chance.choice(self._names)
            self._again(request, called_us, tries, unknown=status != "refused")

        def give_up() -> None:
            if attempt == self._attempt:
                self._attempt += 1
                self._target = self._chance.choice(self._names)
                self._again(request, called_us, tries, unknown=True)

        self._send(request, outcome)
        clock.call_later(self._deadline_us, give_up)

    def _send(self, request: Request, outcome: Outcome) -> None:
        node = self._cluster.nodes[self._target]
        delay_us = 100 + int(self._chance.random() * 1_000)
        if request.command:
            proposal = Proposal(EntryKind.COMMAND, request.command, commands.checksum(request.command))
            self._cluster.clock.call_later(delay_us, node.submit, [(proposal, outcome)])
        else:
            self._cluster.clock.call_later(delay_us, node.get, request.key, outcome)

    def _again(self, request: Request, called_us: int, tries: int, *, unknown: bool) -> None:
        safe = request.token or not request.command or not unknown
        if safe and tries > 1:
            self._wait(RETRY_US, lambda: self._try(request, called_us, tries - 1))
            return
        self._records.ended += 1
        self._wait(RETRY_US, self._begin)

    def _take(self, request: Request, told: Told, called_us: int) -> None:
        records, now_us = self._records, self._cluster.clock.now_us
        records.answer(request, told, called_us, now_us)
        records.ended += 1
        self._cluster.trace.add(f"told {told.at} {told.result}")
        if told.result.revision and request.key:
            self._wishes.seen[request.key.encode()] = told.result.revision
        if request.token and self._chance.random() < 0.3:
            # Sometimes an answered request is sent again; it counts as a request of its own.
            self._wait(self._pause_us, lambda: self._try(request, self._cluster.clock.now_us, TRIES_MAX))
        else:
            self._wait(self._pause_us, self._begin)

    def _wait(self, longest_us: int, call: Callable[[], None]) -> None:
        self._cluster.clock.call_later(int(self._chance.random() * longest_us), call)
