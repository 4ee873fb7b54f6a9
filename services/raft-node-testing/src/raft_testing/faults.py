"""Chooses the faults of a run, and their times.

Every fault is a window: it begins, lasts for a random while, and is undone. Windows overlap. Each run draws a random
subset of the kinds (swarm testing: a fault that is always on hides what happens without it).

``FAULTS`` are the kinds that can be drawn. ``EFFECTS`` are the counters that must not stay at zero over a run of many
seeds: each shows that a fault did not just happen, but made a difference. ``RARE`` ones are only
shown.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from raft_node.raft.types import Role
from raft_testing.cluster import Cluster
from raft_testing.environment import TICK_US
from raft_testing.members import OPERATIONS
from raft_testing.network import Link
from raft_testing.node import SimulatedNode

FAULTS = (
    "loss",
    "duplicate",
    "reorder",
    "delay",
    "unreachable",
    "partition",
    "isolate",
    "one_way",
    "partial",
    "crash",
    "crash_many",
    "crash_all",
    "pause",
    "long_pause",
    "damage",
    "slow_disk",
    "slow_apply",
    "clock_skew",
)

EFFECTS = (
    *(kind for kind in FAULTS if kind != "damage"),
    *OPERATIONS,
    *("write_lost", "write_torn", "write_whole", "truncation", "superseded", "unknown", "leader_change", "echo"),
    *("pause_deposed", "resigned", "transfer_aborted"),
    *("disk_lost", "configuration_rolled_back", "removed", "change_ConfigurationRefusedError"),
    *("compaction", "snapshot_sent", "snapshot_installed", "snapshot_failed", "snapshot_ahead"),
    *("snapshot_cut", "snapshot_resumed", "snapshot_superseded", "snapshot_damaged", "snapshot_spoiled"),
    *("log_discarded", "install_cut_files", "install_cut_switch", "install_cut_reset", "reset_at_start"),
)
RARE = ("log_kept", "snapshot_void", "install_cut_wait")
SEEDS_FOR_EFFECTS = 500
"""How many seeds a run must have for missing effects to count; in fewer, an effect may be missing by chance."""

Undo = Callable[[], None]


class FaultInjector:
    """Begins and ends faults in a cluster until it is told to stop; ``begun`` counts them.

    Args:
        cluster: The cluster in which faults are caused.
        kinds: The kinds of faults of this run.
        gap_us: About how long it is between the beginnings of two faults.
    """

    def __init__(self, cluster: Cluster, kinds: tuple[str, ...], gap_us: int) -> None:
        self.begun = 0
        self.active = True
        self._cluster = cluster
        self._chance = cluster.chance
        self._kinds = kinds
        self._gap_us = gap_us
        self._schedule()

    def stop(self) -> None:
        """Begins no more faults. The ends of the running ones do nothing any more: the cluster is healed as a whole."""
        self.active = False

    def _schedule(self) -> None:
        # Faults become rarer the longer a run takes, so that in the end requests succeed in between.
        gap_us = self._gap_us * (1 + self.begun / 40)
        self._cluster.clock.call_later(int(gap_us * (0.3 + 1.4 * self._chance.random())), self._begin)

    def _begin(self) -> None:
        if not self.active:
            return
        kind = self._chance.choice(self._kinds)
        undo = self._inject(kind)
        if undo is not None:
            shortest_us = 400_000 if kind == "long_pause" else 20_000
            duration_us = shortest_us + int(self._chance.random() ** 2 * 1_200_000)
            self.begun += 1
            self._cluster.trace.add(f"fault {kind} for {duration_us}")
            self._cluster.clock.call_later(duration_us, self._end, kind, undo)
        self._schedule()

    def _end(self, kind: str, undo: Undo) -> None:
        if self.active:
            self._cluster.trace.add(f"fault {kind} ends")
            undo()

    def _inject(self, kind: str) -> Undo | None:
        network, chance = self._cluster.network, self._chance
        match kind:
            case "loss":
                return _raise(network, "loss_permille", chance.choice((20, 100, 300, 600)))
            case "duplicate":
                return _raise(network, "duplicate_permille", chance.choice((50, 300)))
            case "reorder":
                return self._reorder()
            case "delay":
                return _raise(network, "delay_max_us", chance.choice((20_000, 100_000, 400_000)))
            case "unreachable":
                return self._unreachable()
            case "partition" | "isolate" | "one_way" | "partial":
                return self._cut(kind)
            case "crash" | "crash_many" | "crash_all":
                return self._crash(kind)
            case "pause" | "long_pause":
                return self._pause(kind)
            case "damage":
                return self._damage()
            case "slow_disk":
                return self._slow("fsync_max_us", chance.choice((50_000, 600_000, 2_000_000)))
            case "slow_apply":
                return self._slow("apply_max_us", chance.choice((5_000, 100_000)))
            case "clock_skew":
                return self._skew()
        raise AssertionError(kind)

    def _victims(self, count: int) -> list[str]:
        """Chooses some nodes; often the leader or a receiver of a snapshot is among them, where faults matter most."""
        names = list(self._cluster.nodes)
        victims = self._chance.sample(names, min(count, len(names)))
        leader = self._cluster.leader
        where = self._chance.random()
        if where < 0.5:
            hurt = leader.name if leader is not None else ""
        else:
            # Snapshots are rare, and there are many places in which they can be cut off.
            installing = [node.name for node in self._cluster.nodes.values() if node.installation.busy]
            hurt = self._chance.choice(installing) if installing and where < 0.8 else ""
        if hurt and hurt not in victims:
            victims[0] = hurt
        return victims

    def _reorder(self) -> Undo:
        # Messages can only overtake each other if some are late.
        undo_order = _raise(self._cluster.network, "reorder_permille", self._chance.choice((200, 900)))
        undo_delay = _raise(self._cluster.network, "delay_max_us", self._chance.choice((5_000, 40_000)))

        def undo() -> None:
            undo_order()
            undo_delay()

        return undo

    def _unreachable(self) -> Undo:
        undo_notice = _raise(self._cluster.network, "notice_permille", 500)
        undo_loss = _raise(self._cluster.network, "loss_permille", 50)

        def undo() -> None:
            undo_notice()
            undo_loss()

        return undo

    def _cut(self, kind: str) -> Undo:
        names, chance = list(self._cluster.nodes), self._chance
        links: list[Link] = []
        if kind == "partition":
            inside = set(self._victims(chance.randint(1, max(1, len(names) // 2))))
            links = [(a, b) for a in names for b in names if (a in inside) != (b in inside)]
        elif kind == "isolate":
            victim = self._victims(1)[0]
            links = [(a, b) for a in names for b in names if a != b and victim in (a, b)]
        elif kind == "one_way":
            victim, deaf = self._victims(1)[0], chance.random() < 0.5
            others = [name for name in names if name != victim and chance.random() < 0.8]
            links = [(other, victim) if deaf else (victim, other) for other in others]
        else:
            for first, a in enumerate(names):
                for b in names[first + 1 :]:
                    if chance.random() < 0.4:
                        links += [(a, b), (b, a)]
        network = self._cluster.network
        network.cut(links, kind)
        return lambda: network.mend(links, kind)

    def _crash(self, kind: str) -> Undo | None:
        nodes = self._cluster.nodes
        count = {"crash": 1, "crash_many": self._chance.randint(2, max(2, len(nodes) - 2))}.get(kind, len(nodes))
        lives: dict[str, int] = {}
        mattered = False
        for name in self._victims(count):
            if nodes[name].raft is not None:
                mattered = mattered or _busy(nodes[name])
                nodes[name].crash()
                lives[name] = nodes[name].life
        self._cluster.counters[kind] += mattered

        def undo() -> None:
            for name, life in lives.items():
                if nodes[name].life == life:
                    nodes[name].start()

        return undo if lives else None

    def _pause(self, kind: str) -> Undo | None:
        leader = self._cluster.leader if kind == "long_pause" else None
        node = leader or self._cluster.nodes[self._victims(1)[0]]
        if node.raft is None or node.paused:
            return None
        node.pause()
        self._cluster.counters["long_pause"] += kind == "long_pause" and leader is not None
        life = node.life
        return lambda: node.resume(life)

    def _damage(self) -> Undo:
        undo_network = _raise(self._cluster.network, "damage_permille", self._chance.choice((100, 400)))
        nodes = list(self._cluster.nodes.values())
        for node in nodes:
            node.spoils = True

        def undo() -> None:
            undo_network()
            for node in nodes:
                node.spoils = False

        return undo

    def _slow(self, attribute: str, maximum_us: int) -> Undo:
        nodes = [self._cluster.nodes[name] for name in self._victims(self._chance.randint(1, 2))]
        undos = [_raise(node, attribute, maximum_us) for node in nodes]

        def undo() -> None:
            for one in undos:
                one()

        return undo

    def _skew(self) -> Undo:
        nodes = list(self._cluster.nodes.values())
        for node in nodes:
            node.tick_us = int(TICK_US * self._chance.choice((0.5, 0.8, 1.0, 1.2, 2.0)))
        self._cluster.counters["clock_skew"] += sum(node.tick_us != TICK_US for node in nodes)

        def undo() -> None:
            for node in nodes:
                node.tick_us = TICK_US

        return undo


def _busy(node: SimulatedNode) -> bool:
    """Whether a node has something to lose: leadership, or a write or a snapshot under way."""
    leads = node.raft is not None and node.raft.role is Role.LEADER
    return leads or node.log.writing is not None or bool(node.installation.step)


def _raise(target: object, attribute: str, amount: int) -> Undo:
    """Adds to a setting; returns the function that subtracts the same amount, so that overlapping faults add up."""
    setattr(target, attribute, getattr(target, attribute) + amount)
    return lambda: setattr(target, attribute, getattr(target, attribute) - amount)


def draw_kinds(chance: random.Random) -> tuple[str, ...]:
    """A random subset of the kinds, at least two."""
    kinds = tuple(kind for kind in FAULTS if chance.random() < 0.4)
    return kinds if len(kinds) >= 2 else tuple(chance.sample(FAULTS, 2))
