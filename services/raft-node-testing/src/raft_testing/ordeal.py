"""Runs one node's real log and real engine through power cuts, failing disks and damage.

Shards of whole nodes are simulated elsewhere (``raft_testing.simulation``), on disks that lose unsynced data
but never fail. Here it is the other way round: one node, no network, and all faults of files. The node
appends, truncates, commits, applies, flushes, compacts, drops the log's prefix and takes over checkpoints, a step at a
time; before any operation the power may be cut or the process die, a sync may fail, a bit may flip.

The invariants, which are checked after every start (``raft_testing.ordeal_model`` knows the right contents):

``log_durable``        the log has all appended entries, and of an interrupted append all or nothing
``state_durable``      the state is exactly that of one entry, not before the last finished flush
``state_meets_log``    the log reaches back to the state
``read``               a read gives the value that was written last
``failure_told``       no operation succeeds if one of its writes, syncs or renames failed
``damage_refused``     a flipped bit changes no read, or is refused, and then no file is touched
``checkpoint_durable`` a finished checkpoint is there after a crash
``snapshot_checked``   a checkpoint that arrived damaged is refused
``never_back``         no older state takes the place of a newer one
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from raft_node.errors import CorruptionError, DiskError, DougError
from raft_node.storage.engine import Engine
from raft_node.storage.merges.tasks import CompactionTask
from raft_node.storage.merges.worker import run_task
from raft_node.storage.snapshots.checkpoint import (
    CHECKPOINT,
    Checkpoint,
    StaleCheckpointError,
    install_checkpoint,
    load_checkpoint,
    verify_checkpoint,
)
from raft_node.storage.wal.log import Wal, WalHardState, WalOptions
from raft_node.storage.wal.segment import RECYCLED_NAME, SUFFIX
from raft_testing.brittle import BrittleFileSystem, require
from raft_testing.checkers import InvariantViolationError
from raft_testing.disk import PowerCutError
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.files import MemoryFileSystem
from raft_testing.ordeal_model import Append, Model, UnderWay, batch_of, bit_to_flip

STEPS = 160
EFFECTS = tuple(
    f"ordeal_{name}"
    for name in (
        *(
            "power_cut",
            "start_cut",
            "kill",
            "failure",
            "damage_refused",
            "damage_harmless",
            "torn",
            "truncation",
            "prefix_dropped",
        ),
        *("segment_reused", "compaction", "checkpoint", "adopted", "stale_refused", "transfer_refused", "log_reset"),
        *("log_kept", "reset_at_start", "two_tasks"),
    )
)
"""Counters that must not stay at zero over many seeds."""

_WAL = "wal"
_DATA = "data"
_CHECKPOINT = "checkpoint"
_INCOMING = "incoming"
_OPTIONS = WalOptions(segment_bytes=4096)


class Ordeal:
    """One seed; ``run`` goes through it. The same seed gives the same lines of ``trace``."""

    def __init__(self, seed: int, trace: Callable[[str], None], counters: Counter[str]) -> None:
        self._chance = random.Random(f"ordeal {seed}")  # noqa: S311
        self._trace = trace
        self._counters = counters
        self._fs = BrittleFileSystem()
        self._model = Model(self._chance)
        self._engine_options = replace(TINY_OPTIONS, open_tables_max=self._chance.choice((1, 3, 256)))
        self._helpers = self._chance.choice((1, 2, 2))
        self._starts = 0
        self._trouble = ""
        self._checkpoints = 0
        self._leader_fs = MemoryFileSystem()
        self._leader = Engine.open(self._leader_fs, _DATA, TINY_OPTIONS, "leader")
        # How often something bad happens, in percent of the steps.
        self._troubles = self._chance.choice((5, 15, 30))
        self._begin_life()

    def run(self) -> None:
        """Goes through all steps.

        Raises:
            InvariantViolationError: An invariant does not hold.
            DougError: The node stopped without a fault of its disks.
        """
        steps: list[tuple[int, Callable[[], None]]] = [
            (30, self._append),
            (20, self._commit),
            (25, self._apply),
            (25, self._maintain),
            (18, self._tend_log),
            (8, self._read),
            (5, self._make_checkpoint),
            (4, self._lag),
            (5, self._offer),
            (3, self._close_and_damage),
        ]
        weights = [weight for weight, _ in steps]
        for _ in range(STEPS):
            (_, step) = self._chance.choices(steps, weights)[0]
            self._endure(step)
        self._die(power=True)

    def _endure(self, step: Callable[[], None]) -> None:
        """Takes a step, perhaps with a fault of the disk in the middle of it."""
        chance, fs = self._chance, self._fs
        self._trouble = ""
        if chance.random() * 100 < self._troubles:
            kinds = ("power", "power", "kill", "write", "sync", "sync", "sync_directory", "rename")
            self._trouble = chance.choice(kinds)
        if self._trouble in ("power", "kill"):
            fs.cut_at = chance.choice((1, 1, 2, 2, 3, 4, 6, 9, 14, 20))
        elif self._trouble:
            fs.fail_next(self._trouble)
        self._trace(f"ordeal {step.__name__[1:]} {self._trouble}")
        try:
            step()
        except PowerCutError:
            power = self._trouble == "power"
            self._counters["ordeal_power_cut" if power else "ordeal_kill"] += 1
            self._die(power=power)
            return
        except DiskError:
            if self._trouble in ("", "power", "kill") or fs.failure_waits:
                raise
            self._counters["ordeal_failure"] += 1
            self._die(power=chance.random() < 0.5)
            return
        failed = self._trouble not in ("", "power", "kill") and not fs.failure_waits
        require(not failed, "failure_told", f"a failed {self._trouble} went unnoticed in {step.__name__[1:]}")
        fs.cut_at = 0
        fs.heal()

    # Starting and dying.

    def _die(self, *, power: bool) -> None:
        fs = self._fs
        fs.cut_at = 0
        fs.heal()
        if power:
            fs.crash(self._chance)
        self._trace(f"ordeal dies power={power}")
        while self._chance.random() < 0.6:
            self._start_in_vain()
        self._begin_life()

    def _start_in_vain(self) -> None:
        """Cuts the power again while the node starts."""
        fs, chance = self._fs, self._chance
        self._starts += 1
        of_engine = chance.random() < 0.7
        fs.cut_at = 0 if of_engine else chance.randint(1, 12)
        try:
            Wal.open(fs, _WAL, _OPTIONS)
            fs.cut_at = chance.randint(1, 12) if of_engine else fs.cut_at
            Engine.open(fs, _DATA, self._engine_options, f"s{self._starts}")
        except PowerCutError:
            self._counters["ordeal_start_cut"] += 1
        fs.cut_at = 0
        fs.crash(chance)

    def _begin_life(self) -> None:
        """Starts the node with the contents of its disk, checks them, and applies all committed entries."""
        model, fs = self._model, self._fs
        self._starts += 1
        # A flush and a compaction at most, each with its result once the worker is done with it.
        self._tasks: list[UnderWay] = []
        self._wal = Wal.open(fs, _WAL, _OPTIONS)
        self._counters["ordeal_torn"] += bool(self._wal.recovery_notes)
        self._engine = Engine.open(fs, _DATA, self._engine_options, f"s{self._starts}")
        flushed, term = self._engine.flushed_index, self._engine.flushed_term
        model.settle(self._wal, flushed)
        require(
            model.flushed_index <= flushed <= model.committed_index,
            "state_durable",
            f"the state is that of entry {flushed}; flushed was {model.flushed_index}",
        )
        model.flushed_index = flushed
        if flushed > self._wal.last_index or (flushed >= self._wal.first_index and self._wal.term(flushed) != term):
            # The crash came between the state of a snapshot and the log behind it.
            self._counters["ordeal_reset_at_start"] += 1
            self._reset_log(flushed, term)
        self._check_start()
        self._trace(f"ordeal starts flushed={flushed} log={self._wal.first_index}..{self._wal.last_index}")

    def _check_start(self) -> None:
        model, wal, engine = self._model, self._wal, self._engine
        model.check_log(wal)
        flushed = engine.flushed_index
        require(
            wal.first_index - 1 <= flushed,
            "state_meets_log",
            f"the state ends with entry {flushed}, and the log begins with {wal.first_index}",
        )
        require(
            dict(engine.scan(b"", None)) == model.state(flushed), "state_durable", f"the state is not that of {flushed}"
        )
        if model.checkpoint_index:
            self._check_checkpoint(model.checkpoint_index)
        elif self._fs.exists(f"{self._checkpoint_path}/{CHECKPOINT}"):
            # The checkpoint was interrupted, but its list is there; so all files in the list must be there, too.
            self._check_checkpoint(load_checkpoint(self._fs, self._checkpoint_path).applied_index)

    def _check_checkpoint(self, index: int) -> None:
        try:
            found = verify_checkpoint(self._fs, self._checkpoint_path).applied_index
        except CorruptionError as error:
            raise InvariantViolationError("checkpoint_durable", str(error)) from error
        require(found == index, "checkpoint_durable", f"it is that of entry {found}, not of {index}")
        if self._chance.random() < 0.3:
            self._fs.remove_tree("probe")
            install_checkpoint(self._fs, "probe", self._checkpoint_path)
            probe = Engine.open(self._fs, "probe", self._engine_options, "probe")
            same = dict(probe.scan(b"", None)) == self._model.state(index)
            probe.close()
            require(same, "checkpoint_durable", f"its content is not the state of entry {index}")

    # The log.

    def _append(self) -> None:
        append = self._model.next_append()
        self._model.begin(append)
        self._counters["ordeal_truncation"] += append.truncate_from is not None
        self._wal.publish(self._wal.append(append.hard_state, append.truncate_from, append.entries))
        self._model.end()

    def _commit(self) -> None:
        self._model.commit()

    def _tend_log(self) -> None:
        wal = self._wal
        if wal.wants_segment:
            before = len(self._fs.operations)
            wal.prepare_next_segment()
            begun = self._fs.operations[before]
            self._counters["ordeal_segment_reused"] += begun == ("rename", f"{_WAL}/{RECYCLED_NAME}")
        # Only entries that are in the state on disk may be dropped.
        first = self._engine.flushed_index + 1 - self._chance.choice((0, 0, 3))
        if first > wal.first_index:
            wal.drop_prefix(min(first, wal.last_index + 1))
        if wal.wants_drop:
            drop = wal.take_drop()
            drop.run()
            wal.drop_done(drop)
            self._counters["ordeal_prefix_dropped"] += 1
        self._model.check_log(wal)
        require(
            wal.first_index - 1 <= self._engine.flushed_index,
            "state_meets_log",
            f"the log begins with {wal.first_index}, and the state on disk ends with {self._engine.flushed_index}",
        )

    def _reset_log(self, index: int, term: int) -> None:
        model, wal = self._model, self._wal
        state = WalHardState(max(term, model.hard_state.term), "", 0, index)
        kept = model.begin_reset(index, term, state)
        wal.publish(wal.reset(index, term, state))
        model.end()
        self._counters["ordeal_log_kept" if kept else "ordeal_log_reset"] += 1

    # The state.

    def _apply(self) -> None:
        model, engine = self._model, self._engine
        for _ in range(self._chance.randint(1, 12)):
            index = engine.applied_index + 1
            # A node does not apply entries that its own log does not hold yet, committed or not.
            if engine.stalled or index > model.agreed_index:
                return
            entry = model.committed(index)
            engine.write(batch_of(entry), index, entry.term)

    def _maintain(self) -> None:
        """Runs background work, and stops anywhere in the middle of it."""
        engine, chance, fs = self._engine, self._chance, self._fs
        if chance.random() < 0.2:
            engine.rotate()
        for _ in range(chance.randint(1, 6)):
            if len(self._tasks) < self._helpers and (not self._tasks or chance.random() < 0.5):
                while (change_write := engine.take_changes()) is not None:
                    change_write.run()
                    engine.changes_done(change_write)
                given = engine.next_task(idle=chance.random() < 0.3)
                if given is not None:
                    self._tasks.append(UnderWay(given))
                    self._counters["ordeal_two_tasks"] += len(self._tasks) == 2
                elif not self._tasks:
                    return
                continue
            work = chance.choice(self._tasks)
            if work.result is None:
                work.result = run_task(fs, _DATA, work.task)
            else:
                task, result = work.task, work.result
                if isinstance(task, CompactionTask) and not self._trouble and chance.random() < 0.3:
                    # New tables replace old ones: wherever it is interrupted, the old or the new ones must be whole.
                    self._trouble, fs.cut_at = "power", chance.randint(1, 8)
                prepared = engine.prepare_install(task, result)
                self._tasks.remove(work)
                self._model.flushed_index = prepared.view.version.flushed_index
                engine.finish_install(prepared)
                self._counters["ordeal_compaction"] += bool(prepared.removed)

    def _read(self) -> None:
        engine, model = self._engine, self._model
        state = model.state(engine.applied_index)
        for key in self._chance.sample(model.keys, 6):
            value = engine.get_blocking(key)
            require(value == state.get(key), "read", f"{key!r} reads {value!r}, not {state.get(key)!r}")

    # Checkpoints.

    @property
    def _checkpoint_path(self) -> str:
        """A new directory for each checkpoint: a crash may leave any part of a removal, too."""
        return f"{_CHECKPOINT}-{self._checkpoints}"

    def _make_checkpoint(self) -> None:
        """Makes a checkpoint of the tables as they are now."""
        if not self._engine.flushed_index:
            return
        self._model.checkpoint_index = 0
        self._fs.remove_tree(self._checkpoint_path)
        self._checkpoints += 1
        if not self._trouble and self._chance.random() < 0.6:
            # The list is short, and a part of it that a crash leaves must not be taken for a checkpoint.
            tables = sum(self._engine.stats().level_tables)
            self._trouble, self._fs.cut_at = "power", tables + self._chance.randint(5, 8)
        made = self._engine.checkpoint(self._checkpoint_path).run()
        self._model.checkpoint_index = made.applied_index
        self._counters["ordeal_checkpoint"] += 1

    def _lag(self) -> None:
        """Lets the other nodes go on without this one."""
        self._model.grow_elsewhere()

    def _offer(self) -> None:
        """Lets the leader send a checkpoint: often with entries that this node lacks, sometimes without."""
        sent = self._leaders_checkpoint()
        # Faults during the adoption matter more than faults during the transfer.
        coming = self._fs.put_off() if self._chance.random() < 0.7 else None
        received = self._receive(sent) if sent is not None else None
        if coming is not None:
            self._fs.bring_on(coming)
        if received is not None:
            self._adopt(received)

    def _leaders_checkpoint(self) -> Checkpoint | None:
        model, leader = self._model, self._leader
        upto = self._chance.choice((model.committed_index, self._chance.randint(0, model.committed_index)))
        for index in range(leader.applied_index + 1, upto + 1):
            entry = model.committed(index)
            leader.write(batch_of(entry), index, entry.term)
            if leader.stalled:
                settle(leader, self._leader_fs, _DATA)
        if not leader.applied_index:
            return None
        leader.rotate()
        settle(leader, self._leader_fs, _DATA)
        return leader.checkpoint(_CHECKPOINT).run()

    def _receive(self, sent: Checkpoint) -> Checkpoint | None:
        """Checks the received checkpoint; returns None if it is refused."""
        damaged = self._write_received(sent)
        try:
            checkpoint = verify_checkpoint(self._fs, _INCOMING)
        except CorruptionError as error:
            require(damaged, "snapshot_checked", f"what came whole is refused: {error}")
            self._counters["ordeal_transfer_refused"] += 1
            return None
        require(not damaged, "snapshot_checked", "a checkpoint that came damaged is not refused")
        return checkpoint

    def _write_received(self, sent: Checkpoint) -> bool:
        """Writes the files that the leader sent; returns True if they were damaged on the way."""
        chance, fs = self._chance, self._fs
        fs.remove_tree(_INCOMING)
        fs.make_directory(_INCOMING)
        contents = {
            name: self._leader_fs.read_file(f"{_CHECKPOINT}/{name}")
            for name in (*(file.name for file in sent.files), CHECKPOINT)
        }
        damaged = chance.random() < 0.3
        if damaged:
            name = chance.choice(list(contents))
            content = bytearray(contents[name])
            if chance.random() < 0.8:
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            else:
                del content[chance.randrange(len(content)) :]
            contents[name] = bytes(content)
        for name, data in contents.items():
            file = fs.create(f"{_INCOMING}/{name}")
            file.write_at(0, [data])
            file.close()
        return damaged

    def _adopt(self, checkpoint: Checkpoint) -> None:
        engine, model, index = self._engine, self._model, checkpoint.applied_index
        before = engine.applied_index
        for work in self._tasks:
            engine.task_failed(work.task)
        self._tasks.clear()
        try:
            adoption = engine.adopt(checkpoint)
        except StaleCheckpointError:
            require(index <= before, "never_back", f"a checkpoint of {index} is refused at {before}")
            self._counters["ordeal_stale_refused"] += 1
            return
        require(index > before, "never_back", f"a checkpoint of {index} takes the place of the state of {before}")
        assert adoption is not None, "no task is under way"
        adoption.run()
        model.flushed_index = index
        engine.finish_adoption(adoption)
        self._counters["ordeal_adopted"] += 1
        if not self._trouble and self._chance.random() < 0.2:
            # The state is the new one, and the log is still the old one.
            self._trouble, self._fs.cut_at = "power", self._chance.randint(1, 6)
        self._reset_log(index, checkpoint.applied_term)
        require(
            dict(engine.scan(b"", None)) == model.state(index), "state_durable", f"the adopted state is not {index}'s"
        )
        model.check_log(self._wal)

    # Damage.

    def _close_and_damage(self) -> None:
        """Stops the node in order; a bit flips in a copy of its disk, and a node starts there."""
        self._wal.close()
        disk = BrittleFileSystem()
        for directory in (_WAL, _DATA):
            disk.make_directory(directory)
        files = self._fs.files()
        paths = [path for path in files if path.startswith(f"{_WAL}/") or path.rpartition("/")[0] == _DATA]
        for path in paths:
            disk.put(path, files[path])
        logs = [path for path in paths if path.endswith(SUFFIX)]
        path = self._chance.choice((logs[-1], self._chance.choice(logs), self._chance.choice(paths)))
        content = disk.read_file(path)
        if content:
            bit = bit_to_flip(content, self._chance)
            disk.flip_bit(path, bit)
            self._start_damaged(disk, f"{path}, bit {bit}")
        self._begin_life()

    def _start_damaged(self, disk: BrittleFileSystem, where: str) -> None:
        model = self._model
        before = disk.files()
        try:
            wal = Wal.open(disk, _WAL, _OPTIONS)
        except CorruptionError:
            require(disk.files() == before, "damage_refused", f"{where}: the log is refused, and changed")
            self._counters["ordeal_damage_refused"] += 1
            return
        try:
            model.check_log(wal)
            engine = Engine.open(disk, _DATA, self._engine_options, "damaged")
            found, flushed = dict(engine.scan(b"", None)), engine.flushed_index
        except CorruptionError:
            self._counters["ordeal_damage_refused"] += 1
            return
        same = flushed == model.flushed_index and found == model.state(flushed)
        require(same, "damage_refused", f"{where}: the state is another one")
        self._counters["ordeal_damage_harmless"] += 1


def run_ordeal(seed: int, trace: Callable[[str], None], counters: Counter[str]) -> str:
    """Goes through one seed; gives what does not hold, or nothing."""
    try:
        Ordeal(seed, trace, counters).run()
    except InvariantViolationError as violation:
        return f"ordeal: {violation}"
    except (AssertionError, DougError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"ordeal: {error!r}"
    return ""


__all__ = ["EFFECTS", "Append", "Ordeal", "run_ordeal"]
