"""How long a node takes to open after a crash with much of its log to replay: ``python -m bench.replay``.

A node of its own, a shard of one voter, makes its first entries and is stopped. Then entries are put behind them in
its log directly, committed and not applied, as a crash before the first flush would leave them. Measured is the time
from the start of the process until it is ready and has applied all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from doug_wire import command as commands
from doug_wire.command import Opcode
from raft_node import entry as entries
from raft_node.entry import EntryKind
from raft_node.storage.files import OsFileSystem
from raft_node.storage.wal import Wal, WalOptions

FRAME_ENTRIES = 64
START_S = 120.0


def environment(folder: Path, port: int) -> dict[str, str]:
    """The settings of the node; all others are the defaults."""
    return {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "DOUGDB_NODE_ID": "shard-0-0",
        "DOUGDB_SHARD_ID": "0",
        "DOUGDB_PEERS": f"shard-0-0=127.0.0.1:{port + 1}",
        "DOUGDB_WAL_DIR": str(folder / "wal"),
        "DOUGDB_DATA_DIR": str(folder / "data"),
        "DOUGDB_CLIENT_LISTEN": f"127.0.0.1:{port}",
        "DOUGDB_PEER_LISTEN": f"127.0.0.1:{port + 1}",
        "DOUGDB_ADMIN_LISTEN": f"127.0.0.1:{port + 2}",
    }


def ask(port: int, path: str) -> str:
    """What the admin port answers; empty when it is not 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port + 2}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except (OSError, urllib.error.HTTPError):
        return ""


def gauge(metrics: str, name: str) -> float:
    """A metric without further labels; 0 when it is not there."""
    return next((float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(name + "{")), 0.0)


def run(folder: Path, port: int, applied: int) -> dict[str, float]:
    """Starts the node, waits until it is ready and has applied so much, and stops it."""
    started_s = time.perf_counter()
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "raft_node"], env=environment(folder, port), stdout=log, stderr=log
        )
    try:
        ready_s = 0.0
        while True:
            elapsed_s = time.perf_counter() - started_s
            if process.poll() is not None or elapsed_s > START_S:
                raise SystemExit((folder / "log").read_text())
            if ask(port, "/readyz"):
                ready_s = ready_s or elapsed_s
                metrics = ask(port, "/metrics")
                if gauge(metrics, "dougdb_raft_applied_index") >= applied:
                    break
            time.sleep(0.01)
        return {
            "ready_s": round(ready_s, 2),
            "applied_s": round(elapsed_s, 2),
            "log_read_s": round(gauge(metrics, "dougdb_wal_replay_duration_seconds"), 2),
            "stalled_s": round(gauge(metrics, "dougdb_write_stall_seconds_total"), 2),
            "applied_index": gauge(metrics, "dougdb_raft_applied_index"),
        }
    finally:
        process.terminate()
        process.wait()


def extend_log(folder: Path, size_bytes: int, value_bytes: int) -> int:
    """Puts committed entries behind those of a stopped node; gives the index of the last one."""
    wal = Wal.open(OsFileSystem(), str(folder / "wal"), WalOptions())
    draws = random.Random(1)
    state, index, written, timestamp_us = wal.hard_state, wal.last_index, 0, time.time_ns() // 1000
    while written < size_bytes:
        frame = []
        for _ in range(FRAME_ENTRIES):
            index += 1
            value = draws.randbytes(value_bytes // 2) * 2
            command = commands.encode(Opcode.PUT, b"%016d" % draws.randrange(10**6), b"", value)
            frame.append(entries.encode(index, state.term, EntryKind.COMMAND, timestamp_us, command))
        wal.publish(wal.append(state._replace(commit_index=index), None, frame))
        written += sum(len(entry.data) for entry in frame)
    wal.close()
    return index


def main() -> int:
    """Measures once and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=64, help="how much of the log is to be replayed (default: 64)")
    parser.add_argument("--value-bytes", type=int, default=100, help="the size of each value (default: 100)")
    parser.add_argument("--port", type=int, default=26_995, help="the first of three ports (default: 26995)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="doug-replay-") as name:
        folder = Path(name)
        run(folder, arguments.port, 2)
        last = extend_log(folder, arguments.mib << 20, arguments.value_bytes)
        figures = {"mib": arguments.mib, "value_bytes": arguments.value_bytes, "entries": last}
        sys.stdout.write(json.dumps(figures | run(folder, arguments.port, last)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
