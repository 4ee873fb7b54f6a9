"""``raft-node restore`` and ``raft-node verify-backup``: a node's volumes from a backup, and whether one is whole.

Exit codes: 0 done, or whole; 1 the backup is damaged; 2 wrong usage; 3 refused, or the disk failed.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from raft_node.app.restoring.backup import damages, load_backup
from raft_node.app.restoring.restore import restore
from raft_node.app.restoring.sources import FolderSource, Source, StreamSource
from raft_node.errors import CorruptionError, FatalError, RestoreRefusedError
from raft_node.runtime.disk.volume_lock import locked
from raft_node.storage.files import OsFileSystem

EXIT_DAMAGED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3

_RESTORE = "make the empty volumes of one member of a new shard from a backup"
_BACKUP = "the shard's directory in the backup, or - for what `dougctl backup send` writes, on standard input"
_VERIFY = "check every part of a backup, down to the single blocks of its SSTables"


def add_to(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands to those of ``raft-node``."""
    restoring = parsers.add_parser("restore", help=_RESTORE, description=f"{_RESTORE}.")
    restoring.add_argument("--backup", required=True, metavar="DIR/shard-N", help=_BACKUP)
    restoring.add_argument("--wal-dir", default=os.environ.get("DOUGDB_WAL_DIR", ""), help="or DOUGDB_WAL_DIR")
    restoring.add_argument("--data-dir", default=os.environ.get("DOUGDB_DATA_DIR", ""), help="or DOUGDB_DATA_DIR")
    restoring.add_argument("--node-id", default=os.environ.get("DOUGDB_NODE_ID", ""), help="or DOUGDB_NODE_ID")
    restoring.add_argument("--members", required=True, metavar="A,B,C", help="the names of all members of the shard")
    restoring.add_argument(
        "--restore-id",
        required=True,
        metavar="ID",
        help="the same for all nodes of all shards, another for each restore",
    )
    restoring.set_defaults(run=run_restore)
    verifying = parsers.add_parser("verify-backup", help=_VERIFY, description=f"{_VERIFY}.")
    verifying.add_argument("backup", metavar="DIR", help="the backup's directory, with BACKUP.json")
    verifying.set_defaults(run=lambda arguments: run_verify(arguments.backup))


def run_restore(arguments: argparse.Namespace) -> int:
    """Restores one node; returns the exit code."""
    for option in ("wal_dir", "data_dir", "node_id"):
        if not getattr(arguments, option):
            print(f"restore: --{option.replace('_', '-')} is missing", file=sys.stderr)
            return EXIT_USAGE
    fs = OsFileSystem()
    members = tuple(name.strip() for name in arguments.members.split(",") if name.strip())
    wal_dir, data_dir = arguments.wal_dir, arguments.data_dir
    try:
        # Before anything is made where it should not be.
        source = _source_of(fs, arguments.backup)
        for directory in (wal_dir, data_dir):
            fs.make_directory(directory)
        with locked(wal_dir, data_dir):
            done = restore(fs, source, wal_dir, data_dir, arguments.node_id, members, arguments.restore_id)
    except CorruptionError as error:
        print(f"restore: {error}", file=sys.stderr)
        return EXIT_DAMAGED
    except (FatalError, RestoreRefusedError) as error:
        print(f"restore: {error}", file=sys.stderr)
        return EXIT_REFUSED
    identity = done.identity
    words = "was restored already" if done.already else "is restored"
    print(
        f"{identity.name} of shard {identity.shard} {words}: cluster {identity.cluster_id}, incarnation "
        f"{identity.incarnation}, log up to entry {done.last_index}"
    )
    return 0


def _source_of(fs: OsFileSystem, given: str) -> Source:
    if given == "-":
        return StreamSource(sys.stdin.buffer)
    return FolderSource(fs, str(Path(given).absolute()))


def run_verify(path: str) -> int:
    """Checks a backup and prints a line for each shard; returns the exit code."""
    fs = OsFileSystem()
    try:
        backup = load_backup(fs, path)
        damaged = 0
        for cut in backup.shards:
            found = list(damages(fs, path, cut))
            damaged += bool(found)
            size_bytes = sum(file.size_bytes for file in cut.files)
            state = "DAMAGED" if found else "ok"
            print(f"{cut.folder}: {state}, entry {cut.last_index}, {len(cut.files)} files, {size_bytes} bytes")
            for line in found:
                print(f"  {line}")
    except FatalError as error:
        print(f"verify-backup: {error}", file=sys.stderr)
        return EXIT_DAMAGED
    return EXIT_DAMAGED if damaged else 0
