"""Nothing that runs on the event loop reads from a disk: who may is named here, and mypy knows the type."""

from __future__ import annotations

import ast
from pathlib import Path

import raft_node

STARTS = {
    "kv/state_machine.py": "read_state, whose store is a BlockingStore: what the event loop has is a Store",
    "app/storage.py": "opening, on a thread",
    "storage/engine.py": "where they are",
}
BLOCKING = {"get_blocking", "multi_get_blocking"}


def test_blocking_reads_are_called_by_starts_alone() -> None:
    root = Path(raft_node.__file__).parent
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in BLOCKING
    }
    assert found <= set(STARTS), f"on the event loop: {sorted(found - set(STARTS))}"
