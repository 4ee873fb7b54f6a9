"""Causes faults and does operators' work on one shard of a real cluster, in a random order that a seed determines.

Processes are killed, paused and asked to stop; leaders are moved; members are removed and admitted again, and their
disks are wiped and replaced. It uses what operators have: signals, files, and ``dougctl``. The supervisor of
``dougctl dev`` restarts dead processes.

Invariants:
    1. Kinds are dealt from a shuffled deck: after as many turns as there are kinds, each had its turn.
    2. A turn ends with no process paused, and with all members in the configuration; some may still be starting.
    3. No turn may lose an acknowledged write: at most one disk is lost at a time, and its member is
       replaced before the next turn.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from random import Random

import psutil

from bench.cluster import Cluster, dougctl, paused

PAUSES_S = (0.1, 0.3, 0.6, 1.5, 3.0)
"""The lengths of pauses: shorter than an election timeout, about one, and longer than several."""
COMMAND_TIMEOUT_S = 60.0
OPERATOR_PATIENCE_S = 60.0
OPERATOR_PAUSE_S = 0.5


class NemesisError(Exception):
    """The operator's repair of a fault did not succeed in time; the message ends with the last answer."""


class Nemesis:
    """One seed's faults.

    Attributes:
        turns: How often each kind had its turn.
    """

    def __init__(self, cluster: Cluster, shard: str, seed: int) -> None:
        self._cluster = cluster
        self._shard = shard
        self._random = Random(seed)
        self._names = [view.id for view in cluster.shard_views(shard)]
        self._raft_addresses = {name: cluster.launch_of(name).environment["DOUGDB_PEER_LISTEN"] for name in self._names}
        self._kinds: dict[str, Callable[[], str]] = {
            "kill_one": lambda: self._kill(self._some(1)),
            "kill_two": lambda: self._kill(self._some(2)),
            "kill_leader": lambda: self._kill([self._leader()]),
            "kill_all": lambda: self._kill(self._names),
            "pause_some": lambda: self._pause(self._some(self._random.choice((1, 2)))),
            "pause_leader": lambda: self._pause([self._leader()]),
            "stop_one": self._stop_one,
            "hand_over": self._hand_over,
            "remove_and_add": self._remove_and_add,
            "wipe_and_replace": self._wipe_and_replace,
        }
        self._deck: list[str] = []
        self.turns: Counter[str] = Counter()

    @property
    def kinds(self) -> list[str]:
        """The names of all kinds."""
        return list(self._kinds)

    def act(self) -> str:
        """Takes the next turn, and returns a line that describes it.

        Raises:
            NemesisError: A member could not be admitted or replaced.
        """
        if not self._deck:
            self._deck = self.kinds
            self._random.shuffle(self._deck)
        kind = self._deck.pop()
        self.turns[kind] += 1
        begun = time.monotonic()
        told = self._kinds[kind]()
        return f"{kind} {told} ({time.monotonic() - begun:.1f} s)"

    def pause_s(self) -> float:
        """How long to leave the cluster alone before the next turn, seconds."""
        return self._random.uniform(0.2, 1.5)

    # -- the targets ------------------------------------------------------------------------------------------------

    def _some(self, number: int) -> list[str]:
        return self._random.sample(self._names, number)

    def _leader(self) -> str:
        leader = self._cluster.leader(self._shard)
        return leader.id if leader is not None else self._random.choice(self._names)

    def _living(self, names: list[str]) -> list[psutil.Process]:
        """The processes of the named nodes that run now; the supervisor may not have restarted the others yet."""
        return [process for name in names if (process := self._cluster.find(name)) is not None]

    # -- the turns --------------------------------------------------------------------------------------------------

    def _kill(self, names: list[str]) -> str:
        for process in self._living(names):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return ", ".join(names)

    def _pause(self, names: list[str]) -> str:
        pause_s = self._random.choice(PAUSES_S)
        with paused(self._living(names)):
            time.sleep(pause_s)
        return f"{', '.join(names)} for {pause_s} s"

    def _stop_one(self) -> str:
        name = self._random.choice(self._names)
        for process in self._living([name]):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        return name

    def _hand_over(self) -> str:
        # The transfer may be refused, or its outcome be unknown, while other members are starting.
        return self._dougctl("leader", "transfer", "--shard", self._shard)[1]

    def _remove_and_add(self) -> str:
        name = self._random.choice(self._names)
        told = self._until_done(["members", "remove", name], "no member")
        added = ["members", "add", name, "--address", self._raft_addresses[name]]
        return f"{told}; {self._until_done(added, 'is a member')}"

    def _wipe_and_replace(self) -> str:
        name = self._random.choice(self._names)
        with paused(processes := self._living([name])):
            shutil.rmtree(self._cluster.data / name)
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        return self._until_done(["members", "replace", name], "nothing to replace")

    def _until_done(self, arguments: list[str], done_already: str) -> str:
        """Runs a command until it succeeds, as an operator does while the shard has no leader."""
        ends = time.monotonic() + OPERATOR_PATIENCE_S
        while True:
            code, told = self._dougctl(*arguments, "--shard", self._shard)
            if code == 0 or done_already in told:
                return told
            if time.monotonic() > ends:
                raise NemesisError(f"{' '.join(arguments)}: {told}")
            time.sleep(OPERATOR_PAUSE_S)

    def _dougctl(self, *arguments: str) -> tuple[int, str]:
        command = [dougctl(), "--url", self._cluster.url, *arguments]
        done = subprocess.run(
            command,
            env=self._cluster.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        return done.returncode, "; ".join((done.stdout + done.stderr).split("\n")).strip("; ")
