"""A new local cluster from a backup: the data directory of ``dougctl dev``, with the volumes of all nodes.

The volumes themselves are made by ``raft-node restore``, one process for each node. Invariants:

1. A directory that holds anything else than this restore is refused, and left as it was found; so is any directory for
   a backup that is damaged or that raft-node refuses.
2. What an encrypted backup is decrypted to lies in the new cluster's directory alone, and does not outlive the restore.
3. ``RESTORE.json``, with the restore's id, is durable before the first volume is touched, and goes last;
   ``LAYOUT.json``, without which ``dougctl dev`` starts nothing there, comes when all volumes are whole. A run that was
   cut off is therefore completed by the next one, under the same id.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from dougdb import checking
from dougdb.backups import Backup, BackupError, folder_of, sync_folder
from dougdb.dev.layout import NODES_MAX, DataDirectory, Layout, RefusedError, write_atomically
from dougdb.sealing import Identities, SealingError

RESTORE = "RESTORE.json"
UNSEALED = ".unsealed"
"""Where an encrypted backup is decrypted to, for as long as raft-node reads it."""

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be made.

    Attributes:
        backup: The backup to restore.
        data: The data directory of the new cluster.
        layout: The nodes of the new cluster.
        restore_id: What all nodes are given.
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
        """Where ``RESTORE.json`` is."""
        return self.data.root / RESTORE


def run_program(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs raft-node with arguments, from the same environment."""
    # -P: a file in the user's current directory must not take the place of a module.
    argv = [sys.executable, "-P", "-m", "raft_node", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603 - its own program


def is_installed() -> bool:
    """Whether raft-node can be started."""
    return importlib.util.find_spec("raft_node") is not None


def verify_deeply(backup: Backup, run: Run = run_program) -> list[str] | None:
    """What raft-node finds wrong with a backup's tables; None where it is not installed."""
    if not is_installed():
        return None
    done = run(["verify-backup", str(backup.path.absolute())])
    if done.returncode == 0:
        return []
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith(" ")]
    return lines or [done.stderr.strip() or f"raft-node ended with {done.returncode}"]


def plan_of(backup: Backup, data: Path, nodes: int | None) -> Plan:
    """What a restore is to make; looks, and changes nothing.

    Raises:
        RefusedError: The directory is not empty, or the backup does not fit into it.
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
    """Takes the directory, and notes durably what is to be made there.

    Raises:
        RefusedError: It is in use, or cannot be written.
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


@contextlib.contextmanager
def readable(plan: Plan, identities: Identities | None) -> Iterator[Plan]:
    """The plan as raft-node can read it: of an encrypted backup a copy is made, and removed whatever becomes of it.

    The copy lies in the new cluster's directory, whose volumes hold the same bytes. Requires: ``occupy``.

    Raises:
        RefusedError: It cannot be made, or raft-node finds something wrong with it; then nothing is left.
    """
    if identities is None:
        yield plan
        return
    folder, begun = plan.data.root / UNSEALED, any((plan.data.root / name).exists() for name in _nodes(plan))
    try:
        # An interrupted restore may have left it.
        shutil.rmtree(folder, ignore_errors=True)
        plain = checking.unseal(plan.backup, identities, folder, lambda count: None)
        damaged = verify_deeply(plain)
        if damaged:
            raise RefusedError(f"the backup is damaged, and nothing was restored: {damaged[0]}")
        begun = True
        yield replace(plan, backup=plain)
    except OSError as error:
        raise RefusedError(f"{error.filename or folder}: {error.strerror}") from None
    except (SealingError, BackupError) as error:
        raise RefusedError(f"the backup is damaged, and nothing was restored: {error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not begun:
            _give_up(plan)


def _nodes(plan: Plan) -> list[str]:
    return [plan.layout.node_id(*place) for place in plan.layout.places()]


def _give_up(plan: Plan) -> None:
    """Nothing was made, and a note of it would only stand in the way of the next restore."""
    plan.note.unlink(missing_ok=True)
    shutil.rmtree(plan.data.root / UNSEALED, ignore_errors=True)
    plan.data.vacate()


def carry_out(plan: Plan, on_node: Callable[[int], None], run: Run = run_program) -> None:
    """Makes all volumes, and then the layout. Requires: ``occupy``.

    Raises:
        RefusedError: A volume cannot be made. The same command goes on from there.
    """
    layout, root = plan.layout, plan.data.root
    for shard, index in layout.places():
        name = layout.node_id(shard, index)
        members = ",".join(layout.node_id(shard, number) for number in range(layout.nodes))
        done = run(
            [
                *("restore", "--backup", str((plan.backup.path / folder_of(shard)).absolute())),
                *("--wal-dir", str(root / name / "wal"), "--data-dir", str(root / name / "data")),
                *("--node-id", name, "--members", members, "--restore-id", plan.restore_id),
            ]
        )
        if done.returncode:
            if not any((root / made).exists() for made in _nodes(plan)):
                _give_up(plan)
            reason = done.stderr.strip().removeprefix("restore: ") or f"raft-node ended with {done.returncode}"
            rest = f"; {root} is not to be used as it is: restore into it again, or remove it"
            raise RefusedError(f"{name}: {reason}{rest if plan.note.exists() else ''}")
        on_node(1)
    try:
        plan.data.establish(layout)
        plan.note.unlink()
        sync_folder(root)
    except OSError as error:
        raise RefusedError(f"{error.filename or root}: {error.strerror}") from None


def _read_note(path: Path) -> dict[str, object] | None:
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RefusedError(f"{path} cannot be understood ({error}); remove the directory and restore anew") from None
    return document if isinstance(document, dict) and "restore_id" in document else {}
