"""The composition root of the facade: builds all parts, serves, and stops in order."""

from __future__ import annotations

import os

# gRPC reads this when it is first imported, which is later; its notes about connections are no log lines of ours.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
