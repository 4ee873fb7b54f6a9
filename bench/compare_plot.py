"""Draws the results of ``bench.compare``: rates and p99 of each system by connections, a column for each kind of load.

matplotlib is in the dependency group ``bench``; it is imported only when a picture is drawn.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROWS = (("operations_per_s", "operations per second"), ("p99_ms", "p99, ms"))


def columns_of(loads: Sequence[dict[str, Any]]) -> list[str]:
    """The kinds of load, each with the size of its values, in the order in which they were measured."""
    return list(dict.fromkeys(_column(each["load"]) for each in loads))


def _column(load: dict[str, Any]) -> str:
    return f"{load['kind']}, {load['value_bytes']} B"


def lines_of(loads: Sequence[dict[str, Any]], column: str, figure: str) -> dict[str, list[tuple[int, float]]]:
    """The points of one picture by system: connections, and the median of a figure over the turns."""
    found: dict[str, list[tuple[int, float]]] = {}
    for each in loads:
        if _column(each["load"]) == column:
            for system, runs in each["runs"].items():
                middle = statistics.median(run[figure] for run in runs)
                found.setdefault(system, []).append((each["load"]["connections"], middle))
    return {system: sorted(points) for system, points in found.items()}


def is_possible() -> bool:
    """Whether what draws is here: a run of half an hour is not to end without its picture."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(document: dict[str, Any], path: Path) -> None:
    """Draws the closed loads of a run into a PNG. Requires: there are some.

    Args:
        document: What ``bench.compare --json`` writes.
        path: The file; its folder is made if it is missing.
    """
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    loads = document["loads"]
    columns = columns_of(loads)
    assert columns, "nothing was measured"
    figure, axes = pyplot.subplots(2, len(columns), figsize=(1 + 4 * len(columns), 8), squeeze=False, sharex="col")
    for place, column in enumerate(columns):
        for row, (field, label) in enumerate(ROWS):
            axis = axes[row][place]
            ticks = set[int]()
            for system, points in lines_of(loads, column, field).items():
                connections, values = zip(*points, strict=True)
                axis.plot(connections, values, marker="o", ms=4, lw=1.5, label=system)
                ticks.update(connections)
            axis.set_xscale("log", base=2)
            axis.set_xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)])
            axis.set_ylim(bottom=0)
            axis.grid(True, alpha=0.3)
            axis.set_ylabel(label if place == 0 else "")
        axes[0][place].set_title(column)
        axes[1][place].set_xlabel("connections")
    axes[0][0].legend()
    figure.suptitle(document["machine"], fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
