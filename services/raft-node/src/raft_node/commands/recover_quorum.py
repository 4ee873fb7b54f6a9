"""``raft-node recover-quorum`` and ``dougctl recover-quorum``: shows what would be lost, and does it once confirmed.

Exit codes: 0 shown or done; 2 wrong usage; 3 refused, nothing was changed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from pathlib import Path

from raft_node.app.recovery import Plan, carry_out, plan
from raft_node.errors import FatalError, RecoveryRefusedError
from raft_node.runtime.disk.volume_lock import locked
from raft_node.storage.files import OsFileSystem

NAME = "recover-quorum"
SUMMARY = "Make one surviving node the only member of its shard, after the quorum was lost for good. Loses writes."

EXIT_USAGE = 2
EXIT_REFUSED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "--wal-dir", default=os.environ.get("DOUGDB_WAL_DIR", ""), help="the survivor's log; DOUGDB_WAL_DIR by default"
    )
    parser.add_argument(
        "--data-dir", default=os.environ.get("DOUGDB_DATA_DIR", ""), help="its SSTables; DOUGDB_DATA_DIR by default"
    )
    parser.add_argument("--confirm", default="", metavar="TOKEN", help="carry out the plan that was shown with it")


def run(arguments: argparse.Namespace) -> int:
    """Shows the plan, or carries it out; returns the exit code."""
    for option, directory in (("--wal-dir", arguments.wal_dir), ("--data-dir", arguments.data_dir)):
        if not directory:
            print(f"{NAME}: {option} is missing", file=sys.stderr)
            return EXIT_USAGE
        if not Path(directory).is_dir():
            print(f"{NAME}: {directory} is not a directory", file=sys.stderr)
            return EXIT_USAGE
    try:
        with locked(arguments.wal_dir, arguments.data_dir):
            return _run(arguments.wal_dir, arguments.data_dir, arguments.confirm)
    except (FatalError, RecoveryRefusedError) as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return EXIT_REFUSED


def dougctl_command(wal_dir: str = "", data_dir: str = "", confirm: str = "") -> None:
    """Make one surviving node the only member of its shard, after the quorum was lost for good. Loses writes.

    Shows a plan first and changes nothing; --confirm TOKEN carries out the plan that was shown with that token.
    """
    wal_dir = wal_dir or os.environ.get("DOUGDB_WAL_DIR", "")
    data_dir = data_dir or os.environ.get("DOUGDB_DATA_DIR", "")
    raise SystemExit(run(argparse.Namespace(wal_dir=wal_dir, data_dir=data_dir, confirm=confirm)))


def _run(wal_dir: str, data_dir: str, confirm: str) -> int:
    fs = OsFileSystem()
    found = plan(fs, wal_dir, data_dir)
    _show(found)
    if not confirm:
        print(
            f"\nNothing was changed. To do it: {NAME} --wal-dir {wal_dir} --data-dir {data_dir} --confirm {found.token}"
        )
        return 0
    if confirm != found.token:
        print(f"{NAME}: {confirm} does not confirm this plan; its token is {found.token}", file=sys.stderr)
        return EXIT_REFUSED
    alone = carry_out(fs, wal_dir, data_dir, found)
    print(
        f"\nDone: {alone.name} is the only member of shard {found.shard} now, as incarnation {alone.incarnation}.\n"
        f"Start it, look at the data, and then give the shard members again, one at a time: with empty disks,\n"
        f"dougctl members replace NAME --shard {found.shard}."
    )
    return 0


def _show(found: Plan) -> None:
    time = datetime.datetime.fromtimestamp(found.timestamp_us / 1e6, datetime.UTC)
    members = ", ".join(member.name for member in found.configuration.voters)
    if found.configuration.learners:
        members += "; learners " + ", ".join(member.name for member in found.configuration.learners)
    behind = found.last_index - found.commit_index
    others = ", ".join(member.name for member in found.others) or "nobody"
    lines = [
        f"Survivor      {found.node.name} of shard {found.shard}, incarnation {found.node.incarnation}",
        f"Log           ends at entry {found.last_index} of term {found.last_term}, about {time:%Y-%m-%d %H:%M:%S} UTC",
        f"Committed     known up to entry {found.commit_index}; {behind} entries behind it will count as committed too",
        f"Members now   {members}",
        f"Members then  {found.node.name} alone, as a new incarnation, in term {found.term + 1}",
        "",
        "WARNING: this is for a majority that is gone for good, and it loses data:",
        "- every write that was acknowledged and is not in this log is lost. Run this on each survivor and take the",
        "  one whose log ends with the greatest term, and among those the greatest entry;",
        "- writes that were never acknowledged may appear;",
        f"- {others} must never be started with the old disks again:",
        "  a majority of them would be a second shard with the same keys.",
    ]
    if found.finishes:
        lines.append(f"An earlier run was cut off; this one completes it, as incarnation {found.finishes}.")
    print("\n".join(lines))
