"""The simulated clients: each sends one request after the other and records the answers.

Clients find the leader by its hints, keep to one node for a while even when it is deposed (that is how stale reads come
about), and give up after a deadline; the outcome of such an operation stays unknown. Requests and answers take time.
"""

from __future__ import annotations

from functools import partial

from raft_testing.cluster import Cluster
from raft_testing.environment import Outcome
from raft_testing.history import History, Operation

RETRY_US = 15_000


class Client:
    """One client, which sends requests until it is stopped.

    Attributes:
        done: How many operations have ended, their outcome known or not; refusals do not count.
        succeeded: How many of them were answered.
        active: Whether it may send new requests.
    """

    def __init__(self, cluster: Cluster, history: History, number: int, keys: int, pause_us: int) -> None:
        self.done = 0
        self.succeeded = 0
        self.active = True
        self._cluster = cluster
        self._chance = cluster.chance
        self._history = history
        self._number = number
        self._keys = keys
        self._pause_us = pause_us
        self._written = 0
        self._names = list(cluster.nodes)
        self._target = self._chance.choice(self._names)
        self._read_share = self._chance.choice((0.2, 0.5, 0.9))
        self._deadline_us = self._chance.choice((50_000, 150_000, 600_000))
        self._waiting: list[Operation] = []
        cluster.clock.call_later(int(self._chance.random() * pause_us), self._next)

    def _next(self) -> None:
        if not self.active:
            return
        chance = self._chance
        if chance.random() < 0.03:
            self._target = chance.choice(self._names)
        now_us = self._cluster.clock.now_us
        if chance.random() < self._read_share:
            key = self._key()
            operation = self._history.begin(self._number, "get", key, None, now_us)
            self._waiting = [operation]
            self._send("get", key, self._outcome(operation))
        else:
            # Sometimes several writes arrive together, as in a batch of the facade.
            count = 1 if chance.random() < 0.8 else chance.randint(2, 4)
            writes: list[tuple[str, str, Outcome]] = []
            self._waiting = []
            for _ in range(count):
                self._written += 1
                key, value = self._key(), f"c{self._number}.{self._written}"
                operation = self._history.begin(self._number, "put", key, value, now_us)
                self._waiting.append(operation)
                writes.append((key, value, self._outcome(operation)))
            self._send("put", writes)
        self._cluster.clock.call_later(self._deadline_us, self._give_up, self._waiting)

    def _key(self) -> str:
        return f"k{self._chance.randrange(self._keys)}"

    def _send(self, method: str, *arguments: object) -> None:
        node = self._cluster.nodes[self._target]
        delay_us = 100 + int(self._chance.random() * 1_000)
        self._cluster.clock.call_later(delay_us, getattr(node, method), *arguments)

    def _outcome(self, operation: Operation) -> Outcome:
        def outcome(status: str, value: str | None = None, leader: str = "") -> None:
            delay_us = 100 + int(self._chance.random() * 1_000)
            self._cluster.clock.call_later(delay_us, self._answered, operation, status, value, leader)

        return outcome

    def _answered(self, operation: Operation, status: str, value: str | None, leader: str) -> None:
        if operation not in self._waiting:
            return
        now_us = self._cluster.clock.now_us
        if status == "ok":
            self._history.succeed(operation, now_us, value)
            self._end()
            self.succeeded += 1
        elif status == "refused":
            self._history.refuse(operation, now_us)
        else:
            self._lose(operation)
        self._cluster.trace.add(f"{status} {operation}")
        self._waiting.remove(operation)
        if status != "ok":
            self._target = leader if leader in self._cluster.nodes else self._chance.choice(self._names)
        if not self._waiting:
            # A refused client tries another node at once; so the new leader of a split shard is soon found.
            self._pause(self._pause_us if status == "ok" else RETRY_US)

    def _give_up(self, request: list[Operation]) -> None:
        if request is not self._waiting or not request:
            return
        for operation in request:
            self._lose(operation)
            self._cluster.trace.add(f"deadline {operation}")
        self._waiting = []
        self._target = self._chance.choice(self._names)
        self._pause(RETRY_US)

    def _end(self) -> None:
        self.done += 1
        self._cluster.counters["operations"] += 1

    def _lose(self, operation: Operation) -> None:
        self._end()
        if operation.kind == "put":
            self._cluster.counters["unknown"] += 1

    def _pause(self, longest_us: int) -> None:
        self._cluster.clock.call_later(int(self._chance.random() * longest_us), self._next)


class FinalReader:
    """Writes one more key and reads all keys, at the healed cluster; tries again until it is answered.

    An attempt has a deadline, too: an entry of a deposed leader may vanish without another entry at its index.
    """

    def __init__(self, cluster: Cluster, history: History, keys: int) -> None:
        self._cluster = cluster
        self._history = history
        self._steps = [("put", "k0"), *(("get", f"k{number}") for number in range(keys))]
        self._current: Operation | None = None
        self._try()

    @property
    def finished(self) -> bool:
        """Whether the key was written and all keys were read."""
        return not self._steps

    def _try(self) -> None:
        clock, leader = self._cluster.clock, self._cluster.leader
        if self.finished:
            return
        if leader is None:
            clock.call_later(10_000, self._try)
            return
        kind, key = self._steps[0]
        operation: Operation
        if kind == "put":
            value = f"final.{clock.now_us}"
            operation = self._history.begin(0, "put", key, value, clock.now_us)
            self._current = operation
            leader.put([(key, value, partial(self._answered, operation))])
        else:
            operation = self._history.begin(0, "get", key, None, clock.now_us)
            self._current = operation
            leader.get(key, partial(self._answered, operation))
        clock.call_later(500_000, self._give_up, operation)

    def _answered(self, operation: Operation, status: str, value: str | None = None, leader: str = "") -> None:
        if operation is not self._current:
            return
        self._current = None
        now_us = self._cluster.clock.now_us
        if status == "ok":
            self._history.succeed(operation, now_us, value)
            self._steps.pop(0)
        elif status == "refused":
            self._history.refuse(operation, now_us)
        self._cluster.trace.add(f"{status} {operation}")
        self._cluster.clock.call_later(1_000 if status == "ok" else 10_000, self._try)

    def _give_up(self, operation: Operation) -> None:
        if operation is self._current:
            self._current = None
            self._cluster.trace.add(f"deadline {operation}")
            self._try()
