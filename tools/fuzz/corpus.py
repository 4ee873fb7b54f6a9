"""Chooses among the inputs of a run the few small ones that together reach the same code, to be kept.

An input reaches the steps from line to line that it makes in the product's own code, as Python traces them; no
atheris is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from raft_testing.fuzz.target import Target, corpus_line, load_corpus

KEPT_MAX = 24
KEPT_BYTES_MAX = 8 << 10
_PACKAGES = ("/raft_node/", "/doug_wire/", "/facade/", "/dougdb/")
_NOT_THE_PRODUCT = "/raft_testing/"

Step = tuple[str, int, int]


def reached_by(target: Target, data: bytes) -> set[Step]:
    """The steps that an input makes: file, line before, line."""
    steps: set[Step] = set()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if _NOT_THE_PRODUCT in name or not any(package in name for package in _PACKAGES):
            return None
        before = frame.f_lineno

        def trace_lines(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal before
            if event == "line":
                steps.add((name, before, frame.f_lineno))
                before = frame.f_lineno
            return trace_lines

        return trace_lines

    sys.settrace(trace)
    try:
        target.run(data)
    finally:
        sys.settrace(None)
    return steps


def choose(target: Target, inputs: Iterable[bytes]) -> list[bytes]:
    """The inputs that reach steps beyond those of the seeds, small ones first, within the limits."""
    known: set[Step] = set()
    for seed in target.inputs():
        known |= reached_by(target, seed)
    chosen: list[bytes] = []
    size = 0
    for data in sorted(set(inputs), key=lambda data: (len(corpus_line(data)), data)):
        line_bytes = len(corpus_line(data))
        if len(chosen) >= KEPT_MAX or size + line_bytes > KEPT_BYTES_MAX:
            break
        new = reached_by(target, data) - known
        if new:
            known |= new
            chosen.append(data)
            size += line_bytes
    return chosen


def keep(target: Target, path: Path, folder: Path) -> int:
    """Rewrites the corpus file of a target, from its inputs and those of a run; returns how many it has now."""
    found = [file.read_bytes() for file in folder.iterdir()] if folder.is_dir() else []
    chosen = choose(target, load_corpus(path) + found)
    if chosen:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{corpus_line(data)}\n" for data in chosen))
    return len(chosen)
