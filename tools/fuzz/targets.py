"""Every fuzz target of the repository, by name, and where its corpus is kept."""

from __future__ import annotations

from pathlib import Path

from tools.fuzz import access, archives, requests

from raft_testing.fuzz import targets as of_the_node
from raft_testing.fuzz.target import Target

ROOT = Path(__file__).resolve().parent.parent.parent

TARGETS: dict[str, Target] = {
    **of_the_node.TARGETS,
    **{target.name: target for module in (access, requests, archives) for target in module.TARGETS},
}


def corpus_of(name: str) -> Path:
    """The file with the inputs of a target that are kept."""
    tests = "services/raft-node/tests" if name in of_the_node.TARGETS else "tests"
    return ROOT / tests / "corpus" / f"{name}.txt"
