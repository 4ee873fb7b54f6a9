"""Draws the results of ``bench.stall``: latency of puts and lag of event loops over time, with and without flushes.

matplotlib is in the dependency group ``bench``; it is imported only when a picture is drawn.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.stall import Phase

WINDOW_S = 0.25
LAG_LIMIT_MS = 20.0
FLUSH, COMPACTION, MEDIAN, HIGH = "#9ecae1", "#fdae6b", "#3182bd", "#de2d26"


def windows(latencies_ns: Sequence[int], answered_ns: Sequence[int], share: float) -> tuple[list[float], list[float]]:
    """A percentile of the latencies in each window of time: the windows' middles in seconds, and milliseconds."""
    pieces: dict[int, list[int]] = {}
    for latency, at in zip(latencies_ns, answered_ns, strict=True):
        pieces.setdefault(int(at / 1e9 / WINDOW_S), []).append(latency)
    times, found = [], []
    for window, some in sorted(pieces.items()):
        some.sort()
        times.append((window + 0.5) * WINDOW_S)
        found.append(some[min(len(some) - 1, int(share * len(some)))] / 1e6)
    return times, found


def draw(without: Phase, busy: Phase, path: Path) -> None:
    """Draws both phases side by side into a PNG."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(2, 2, figsize=(14, 7), sharex="col")
    for column, phase in enumerate((without, busy)):
        title = "without flushes and compactions" if phase is without else "while they run"
        _draw_phase(axes[0][column], axes[1][column], phase, title)
    axes[0][0].set_ylabel("put latency, ms")
    axes[1][0].set_ylabel("event-loop lag of all nodes, ms")
    for row in axes:
        # The same scale on both sides.
        limits = [axis.get_ylim() for axis in row]
        for axis in row:
            axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _draw_phase(latency: Any, lag: Any, phase: Phase, title: str) -> None:
    for axis in (latency, lag):
        named = set[str]()
        for span in phase.spans:
            label = None if span.kind in named or axis is lag else f"{span.kind} of a node"
            named.add(span.kind)
            colour = FLUSH if span.kind == "flush" else COMPACTION
            axis.axvspan(max(0.0, span.start_s), span.end_s, color=colour, alpha=0.25, lw=0, label=label)
        axis.set_yscale("log")
        axis.grid(True, which="both", alpha=0.2)
    for share, colour in ((0.5, MEDIAN), (0.99, HIGH)):
        times, found = windows(phase.load.latencies_ns, phase.load.answered_ns, share)
        latency.plot(times, found, color=colour, lw=1, label=f"p{share * 100:.0f} in {WINDOW_S * 1000:.0f} ms")
        ends = [at for at, _ in phase.lags_over_time]
        lag.plot(
            ends,
            [max(0.1, lags.percentile_s(share) * 1000) for _, lags in phase.lags_over_time],
            **{"color": colour, "marker": "o", "ms": 3, "lw": 1, "label": f"p{share * 100:.0f} since the point before"},
        )
    lag.axhline(LAG_LIMIT_MS, color="black", lw=0.8, ls="--", label="limit of p99")
    figures = phase.summary()
    latency.set_title(
        f"{title}\n{figures['operations_per_s']:.0f} puts/s, put p99 {figures['p99_ms']:.1f} ms, "
        f"lag p99 {figures['lag_p99_ms']:.1f} ms, {phase.elections} elections",
        fontsize=10,
    )
    lag.set_xlabel("seconds")
    for axis in (latency, lag):
        # Room for the legend above the lines.
        low, high = axis.get_ylim()
        axis.set_ylim(low, high * (high / low) ** 0.3)
        axis.legend(loc="upper right", ncols=2, fontsize=8)
