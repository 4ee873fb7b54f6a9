"""The composition root: builds all parts of a node, runs them, and stops them in order."""

from __future__ import annotations

import os

# gRPC reads this when it is first imported, which is later. Its notes about refused handshakes are no log lines:
# they have no node, no address of the refused client, and are not JSON.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
