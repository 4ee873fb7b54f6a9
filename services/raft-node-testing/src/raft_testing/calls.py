"""Counts how often our own functions are called: a measure of cost that is the same on every machine.

CPU time of one operation varies by more than a tenth from run to run, so a limit on it would fail by chance or let much
through. How many functions an operation enters does not vary, and it is what time follows on a path that is spread
over a hundred small functions. Only functions of the named packages count: libraries and versions of Python differ.

Must not know the measured code.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

WITHOUT_FRAMES = frozenset({"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"})
"""Names that are not counted, since from Python 3.12 on some of these are no functions of their own."""


@contextmanager
def counted(*packages: str) -> Iterator[Counter[str]]:
    """Counts calls on this thread by function, as ``package/module.py:function``, while the block runs.

    Args:
        packages: The names of the folders whose functions count.
    """
    found: Counter[str] = Counter()
    places: dict[Any, str] = {}
    marks = tuple(f"/{package}/" for package in packages)

    def look(frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        place = places.get(code)
        if place is None:
            folder = next((mark for mark in marks if mark in code.co_filename), None)
            known = folder is not None and code.co_name not in WITHOUT_FRAMES
            place = f"{folder}{code.co_filename.rpartition(folder)[2]}:{code.co_name}" if folder and known else ""
            places[code] = place
        if place:
            found[place] += 1

    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(None)


def report(found: Counter[str], operations: int, rows: int = 40) -> str:
    """The functions that are entered most often, per operation, for people."""
    lines = [f"{sum(found.values()) / operations:8.2f} in all"]
    lines += [f"{count / operations:8.2f} {place}" for place, count in found.most_common(rows)]
    return "\n".join(lines)
