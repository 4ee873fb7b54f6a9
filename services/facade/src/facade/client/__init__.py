"""The way from the facade to the raft-nodes: partition map, leader finding, batching links, deadlines, retries.

Must not know HTTP. Everything here runs on one event loop, without locks.
"""

from __future__ import annotations

import os

# gRPC reads this when it is first imported; its notes about connections that end are not for the console.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
