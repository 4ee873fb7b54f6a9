"""Restores a backup as a new local cluster: a data directory for ``dougctl dev`` with the volumes of all nodes.

The volumes themselves are made by ``raft-node restore``, one process for each node. Invariants:

1. A directory that has anything else than this restore is refused, and left as it was found. It is also left as it was
   if the backup is damaged or raft-node refuses it.
2. The content of an encrypted backup goes to raft-node through a pipe: unencrypted it is in the new volumes only.
3. ``RESTORE.json``, with the restore's id, is durable before the first volume is written, and is removed last.
   ``LAYOUT.json``, without which ``dougctl dev`` starts nothing, is written when all volumes are whole. The next run
   therefore completes an interrupted one, under the same id.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import xxhash

from dougdb import checking
from dougdb.backups import Backup, BackupError, folder_of, sync_folder
from dougdb.dev.layout import NODES_MAX, DataDirectory, Layout, RefusedError, write_atomically
from dougdb.sealing import Identities, SealingError

RESTORE = "RESTORE.json"
DAMAGED = 1
"""The exit code of raft-node for a damaged backup."""

Feed = Callable[[BinaryIO], None]
Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]
RunNode = Callable[[Sequence[str], Feed | None], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The description of a restore.

    Attributes:
        backup: The backup to restore.
        data: The data directory of the new cluster.
        layout: The nodes of the new cluster.
        restore_id: The id of the restore, the same for all nodes.
    """

    backup: Backup
    data: DataDirectory
    layout: Layout
    restore_id: str

    @property
    def cluster_id(self) -> str:
        """The id of the new cluster, as raft-node derives it."""
        return xxhash.xxh3_128_hexdigest(f"{self.backup.backup_id}\n{self.restore_id}".encode())

    @property
    def note(self) -> Path:
        """The path of ``RESTORE.json``."""
        return self.data.root / RESTORE


def run_program(arguments: Sequence[str], feed: Feed | None = None) -> subprocess.CompletedProcess[str]:
    """Runs raft-node with arguments, from the same environment.

    Args:
        arguments: The arguments.
        feed: Writes the standard input of raft-node, which is closed then; None for no input.

    Raises:
        Exception: The error that ``feed`` raised, after raft-node has ended. A ``BrokenPipeError`` is ignored, since
            raft-node then says itself why it stopped reading.
    """
    # -P: a file in the user's current directory must not take the place of a module.
    argv = [sys.executable, "-P", "-m", "raft_node", *arguments]
    given = subprocess.DEVNULL if feed is None else subprocess.PIPE
    with subprocess.Popen(argv, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # noqa: S603 - its own program
        try:
            if feed is not None:
                with contextlib.suppress(BrokenPipeError):
                    feed(cast(BinaryIO, process.stdin))
        finally:
            output, errors = (text.decode(errors="replace") for text in process.communicate())
    return subprocess.CompletedProcess(argv, process.returncode, output, errors)


def is_installed() -> bool:
    """Whether raft-node can be started."""
    return importlib.util.find_spec("raft_node") is not None


def verify_deeply(backup: Backup, run: Run = run_program) -> list[str] | None:
    """The faults that raft-node finds in a backup's tables; None if raft-node is not installed."""
    if not is_installed():
        return None
    done = run(["verify-backup", str(backup.path.absolute())])
    if done.returncode == 0:
        return []
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith(" ")]
    return lines or [done.stderr.strip() or f"raft-node ended with {done.returncode}"]


def plan_of(backup: Backup, data: Path, nodes: int | None) -> Plan:
    """Plans a restore, and continues the plan of an interrupted one; changes nothing.

    Raises:
        RefusedError: The directory has other content, the backup has other shards than 0 to n, or raft-node is not
            installed.
    """
    if not is_installed():
        raise RefusedError("raft-node is not installed here, and it makes the nodes' volumes: install dougdb[dev]")
    numbers = [cut.shard for cut in backup.shards]
    if numbers != list(range(len(numbers))):
        raise RefusedError(f"a local cluster has the shards 0 to n, and the backup has {numbers}")
    layout = Layout(len(numbers), nodes or min(NODES_MAX, max(len(cut.voters) for cut in backup.shards)))
    directory = DataDirectory(data)
    plan = Plan(backup, directory, layout, secrets.token_hex(8))
    known = _read_note(plan.note)
    if known is None:
        directory.require_empty()
        return plan
    wanted = {"backup_id": backup.backup_id, "shards": layout.shards, "nodes": layout.nodes}
    if {name: known.get(name) for name in wanted} != wanted:
        raise RefusedError(
            f"another restore into {directory.root} was cut off ({known.get('backup_id')}, {known.get('shards')} x "
            f"{known.get('nodes')} nodes): run that one again, or remove the directory"
        )
    return Plan(backup, directory, layout, str(known["restore_id"]))


def occupy(plan: Plan) -> None:
    """Locks the directory, and writes ``RESTORE.json`` durably.

    Raises:
        RefusedError: The directory is in use, or cannot be written.
    """
    plan.data.occupy()
    if plan.note.exists():
        return
    plan.data.require_empty()
    document = {
        "backup_id": plan.backup.backup_id,
        "restore_id": plan.restore_id,
        "shards": plan.layout.shards,
        "nodes": plan.layout.nodes,
    }
    try:
        write_atomically(plan.note, json.dumps(document) + "\n")
    except OSError as error:
        raise RefusedError(f"{error.filename or plan.note}: {error.strerror}") from None


def _nodes(plan: Plan) -> list[str]:
    return [plan.layout.node_id(*place) for place in plan.layout.places()]


def _give_up(plan: Plan) -> None:
    """Removes ``RESTORE.json``, which would only hinder the next restore. Requires: no volume was made."""
    plan.note.unlink(missing_ok=True)
    plan.data.vacate()


def carry_out(
    plan: Plan, on_node: Callable[[int], None], run: RunNode = run_program, identities: Identities | None = None
) -> None:
    """Makes all volumes, and then the layout. Requires: ``occupy``.

    Args:
        plan: The description of the restore.
        on_node: Called with 1 after each node.
        run: Runs raft-node.
        identities: The keys of an encrypted backup, which is decrypted on the way to raft-node.

    Raises:
        RefusedError: A volume cannot be made. The same command can be repeated, and goes on from there; but if the
            backup is damaged, the volumes that this run has made are removed again.
    """
    layout, root = plan.layout, plan.data.root
    there = {name for name in _nodes(plan) if (root / name).exists()}
    for shard, index in layout.places():
        name = layout.node_id(shard, index)
        members = ",".join(layout.node_id(shard, number) for number in range(layout.nodes))
        source, feed = str((plan.backup.path / folder_of(shard)).absolute()), None
        if identities is not None:
            source, feed = "-", partial(checking.send, plan.backup, shard, identities)
        try:
            done = run(
                [
                    *("restore", "--backup", source),
                    *("--wal-dir", str(root / name / "wal"), "--data-dir", str(root / name / "data")),
                    *("--node-id", name, "--members", members, "--restore-id", plan.restore_id),
                ],
                feed,
            )
        except (SealingError, BackupError, OSError) as error:
            done = subprocess.CompletedProcess([], DAMAGED, "", str(error))
        if done.returncode:
            reason = done.stderr.strip().removeprefix("restore: ") or f"raft-node ended with {done.returncode}"
            raise RefusedError(_undone(plan, there, name, reason, damaged=done.returncode == DAMAGED))
        on_node(1)
    try:
        plan.data.establish(layout)
        plan.note.unlink()
        sync_folder(root)
    except OSError as error:
        raise RefusedError(f"{error.filename or root}: {error.strerror}") from None


def _undone(plan: Plan, there: set[str], failed: str, reason: str, *, damaged: bool) -> str:
    """Removes the volumes of a damaged backup, unless an earlier run made some; returns the message for the user."""
    root = plan.data.root
    if damaged and not there:
        for name in _nodes(plan):
            if (root / name).exists():
                shutil.rmtree(root / name)
    if not any((root / name).exists() for name in _nodes(plan)):
        _give_up(plan)
        return f"the backup is damaged, and nothing was restored: {reason}" if damaged else f"{failed}: {reason}"
    return f"{failed}: {reason}; {root} is not to be used as it is: restore into it again, or remove it"


def _read_note(path: Path) -> dict[str, object] | None:
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RefusedError(f"{path} cannot be understood ({error}); remove the directory and restore anew") from None
    return document if isinstance(document, dict) and "restore_id" in document else {}
