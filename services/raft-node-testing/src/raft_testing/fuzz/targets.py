"""All fuzz targets of this package, by name."""

from __future__ import annotations

from raft_testing.fuzz import logs, messages, notes, records, stores, tables
from raft_testing.fuzz.target import Target

_MODULES = (logs, tables, stores, records, notes, messages)

TARGETS: dict[str, Target] = {target.name: target for module in _MODULES for target in module.TARGETS}
