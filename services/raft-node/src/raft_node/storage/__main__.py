"""The storage worker: ``python -m raft_node.storage <data directory>``.

The node starts it, sends tasks to its standard input and reads results from its standard output (``tasks``). It ends
when its input does, so it never outlives its node. It must import nothing that a flush does not need.
"""

from __future__ import annotations

import signal
import sys

from raft_node.storage.files import OsFileSystem, discard, lower_priority
from raft_node.storage.merges.worker import serve


def main() -> int:
    """Serves tasks until the end of the input."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m raft_node.storage <data directory>\n")
        return 2
    # Ctrl-C reaches the whole process group; the node decides when its worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lower_priority()
    try:
        serve(OsFileSystem(), sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        # The node died during the task, and the answer cannot be delivered.
        # At exit, too, no buffer must be flushed into the broken pipe.
        discard(sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
