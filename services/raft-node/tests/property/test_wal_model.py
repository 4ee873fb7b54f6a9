"""The log against a list: random appends, truncations, dropped prefixes, resets, restarts and crashes.

After a crash the log holds what was acknowledged, with or without the one append that was under way, and nothing else.
"""

from __future__ import annotations

import contextlib
import random
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from raft_node import entry
from raft_node.entry import Entry
from raft_node.errors import DiskError
from raft_node.storage.wal.log import Wal, WalHardState, WalOptions
from raft_testing.files import MemoryFileSystem

OPTIONS = WalOptions(segment_bytes=4096)
DIRECTORY = "/n/wal"


class Model(NamedTuple):
    """What the log should hold."""

    entries: tuple[Entry, ...]
    """Those behind ``base``; the log may still have some before."""
    hard_state: WalHardState
    base: int = 0
    base_term: int = 0

    @property
    def last(self) -> int:
        """The last entry."""
        return self.base + len(self.entries)


class WalMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.fs = MemoryFileSystem()
        self.wal = Wal.open(self.fs, DIRECTORY, OPTIONS)
        self.model = Model((), WalHardState(0, "", 0, 0))
        self.term = 1

    def plan(
        self, count: int, size: int, cut: int, state: bool, rng: random.Random
    ) -> tuple[WalHardState | None, int | None, list[Entry], Model]:
        last = self.model.last
        truncate_from = max(self.model.base + 1, last + 1 - cut) if cut >= 0 else None
        first = last + 1 if truncate_from is None else truncate_from
        if truncate_from is not None:
            self.term += 1
        new = [
            entry.encode(index, self.term, entry.EntryKind.COMMAND, index, rng.randbytes(rng.randint(0, size)))
            for index in range(first, first + count)
        ]
        entries = (*self.model.entries[: first - 1 - self.model.base], *new)
        hard_state = (
            WalHardState(self.term, "n" * rng.randint(0, 9), rng.getrandbits(64), rng.randint(0, last))
            if state
            else None
        )
        return (
            hard_state,
            truncate_from,
            new,
            self.model._replace(entries=entries, hard_state=hard_state or self.model.hard_state),
        )

    @rule(
        count=st.integers(0, 12),
        size=st.sampled_from([0, 30, 900, 9000]),
        cut=st.integers(-6, 12),
        state=st.booleans(),
        seed=st.integers(0, 1 << 32),
    )
    def append(self, count: int, size: int, cut: int, state: bool, seed: int) -> None:
        hard_state, truncate_from, new, model = self.plan(count, size, cut, state, random.Random(seed))
        self.wal.publish(self.wal.append(hard_state, truncate_from, new))
        self.model = model

    @rule()
    def new_term(self) -> None:
        self.term += 1

    @rule()
    def prepare(self) -> None:
        if self.wal.wants_segment:
            self.wal.prepare_next_segment()

    @rule(cut=st.integers(0, 30))
    def drop_prefix(self, cut: int) -> None:
        """Entries are committed before they are dropped: nothing is truncated below the base any more."""
        self.rebase(max(self.model.base, self.model.last - cut))
        self.wal.drop_prefix(self.model.base + 1)

    @rule(operation=st.integers(0, 4), seed=st.integers(0, 1 << 32))
    def drop(self, operation: int, seed: int) -> None:
        """The files go; with an operation, the process dies within and the power as well."""
        if not self.wal.wants_drop:
            return
        drop = self.wal.take_drop()
        self.fs.fail_at(operation or -1)
        try:
            drop.run()
        except DiskError:
            self.crash(seed)
        else:
            self.wal.drop_done(drop)
        self.fs.heal()

    @rule(ahead=st.integers(-10, 10), older=st.booleans(), operation=st.integers(0, 8), seed=st.integers(0, 1 << 32))
    def reset(self, ahead: int, older: bool, operation: int, seed: int) -> None:
        """A snapshot was installed; with an operation, the process and the power die within."""
        index = max(self.model.base, self.model.last + ahead)
        matches = index <= self.model.last and not (older and index > self.model.base)
        self.term += 1
        term = self.wal.term(index) if matches else self.term
        state = WalHardState(self.term, "r", seed, index)
        before = self.model
        if matches:
            self.rebase(index)
            self.model = self.model._replace(hard_state=state)
        else:
            self.model = Model((), state, index, term)
        self.fs.fail_at(operation or -1)
        try:
            self.wal.publish(self.wal.reset(index, term, state))
        except DiskError:
            after = self.model
            self.fs.crash(random.Random(seed))
            self.wal = Wal.open(self.fs, DIRECTORY, OPTIONS)
            self.model = after if self.wal.hard_state == state else before
        self.fs.heal()

    def rebase(self, base: int) -> None:
        term = self.wal.term(base)
        self.model = self.model._replace(
            entries=self.model.entries[base - self.model.base :], base=base, base_term=term
        )

    @rule()
    def reopen(self) -> None:
        self.wal.close()
        self.wal = Wal.open(self.fs, DIRECTORY, OPTIONS)
        assert self.wal.recovery_notes == []

    @rule(seed=st.integers(0, 1 << 32))
    def crash(self, seed: int) -> None:
        self.fs.crash(random.Random(seed))
        self.wal = Wal.open(self.fs, DIRECTORY, OPTIONS)

    @rule(
        count=st.integers(1, 12),
        size=st.sampled_from([30, 900, 9000]),
        cut=st.integers(-6, 12),
        state=st.booleans(),
        operation=st.integers(1, 10),
        seed=st.integers(0, 1 << 32),
        power=st.booleans(),
    )
    def append_and_die(
        self, count: int, size: int, cut: int, state: bool, operation: int, seed: int, power: bool
    ) -> None:
        """The process dies within an append; with or without the power, and within the next start as well."""
        rng = random.Random(seed)
        hard_state, truncate_from, new, model = self.plan(count, size, cut, state, rng)
        self.fs.fail_at(operation)
        try:
            self.wal.append(hard_state, truncate_from, new)
        except DiskError:
            acknowledged = False
        else:
            acknowledged = True
        self.fs.heal()
        if power:
            self.fs.crash(rng)
        self.fs.fail_at(rng.randint(1, 10))
        with contextlib.suppress(DiskError):
            Wal.open(self.fs, DIRECTORY, OPTIONS)
        self.fs.heal()
        if power:
            self.fs.crash(rng)
        self.wal = Wal.open(self.fs, DIRECTORY, OPTIONS)
        if acknowledged or self.seen() == model:
            self.model = model

    def seen(self) -> Model:
        entries = self.wal.entries(self.wal.first_index, self.wal.last_index + 1, 1 << 40)
        first = self.wal.first_index
        assert [one.index for one in entries] == list(range(first, self.wal.last_index + 1))
        base = self.model.base
        assert first - 1 <= base <= self.wal.last_index
        return Model(tuple(entries[base + 1 - first :]), self.wal.hard_state, base, self.wal.term(base))

    @invariant()
    def holds_the_model(self) -> None:
        assert self.seen() == self.model
        assert self.wal.last_index == self.model.last
        assert [self.wal.term(one.index) for one in self.model.entries] == [one.term for one in self.model.entries]


TestWal = WalMachine.TestCase
TestWal.settings = settings(max_examples=150, stateful_step_count=25, deadline=None, print_blob=True)
