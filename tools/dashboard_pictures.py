"""Draws the dashboards as pictures for docs/images, from the series of a real Prometheus.

Usage: python -m tools.dashboard_pictures PROMETHEUS_URL [MINUTES]

The panels' expressions, titles, units and places are the dashboards' own; the drawing is matplotlib's and only
resembles Grafana. matplotlib is not a dependency of anything here: install it in an environment of its own
(``pip install matplotlib``) to make the pictures again, from a ``make observe`` with a load.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tools.dashboards import DASHBOARDS
from tools.observability.grafana import Dashboard, Panel

TARGET = Path(__file__).resolve().parent.parent / "docs" / "images"
STEP_S = 4
RATE_WINDOW = "20s"
UNIT_PX = 30
WIDTH_PX = 1400
BACKGROUND, CARD, INK, FAINT = "#111217", "#181b1f", "#ccccdc", "#2c3235"
COLOURS = (
    *("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0", "#37872d", "#fade2a"),
    *("#c0d8ff", "#ffb357", "#ff7383", "#1f60c4", "#ca95e5"),
)
LEGENDS_MAX = 6
PALETTE = 56
DPI = 84

Series = tuple[str, list[float], list[float]]


def query(url: str, expr: str, legend: str, start_s: float, end_s: float) -> list[Series]:
    """The series of an expression over time, named as Grafana would."""
    expr = re.sub(r"\$(namespace|job|shard)\b", ".*", expr.replace("$__rate_interval", RATE_WINDOW))
    words = urllib.parse.urlencode({"query": expr, "start": start_s, "end": end_s, "step": STEP_S})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/api/v1/query_range?{words}", timeout=30) as response:
        document = json.load(response)
    found = []
    for series in document["data"]["result"]:
        labels: dict[str, str] = series["metric"]
        name = legend
        for label in re.findall(r"{{(\w+)}}", legend):
            name = name.replace(f"{{{{{label}}}}}", labels.get(label, ""))
        points = [(float(at) - start_s, float(value)) for at, value in series["values"]]
        found.append((name, [at / 60 for at, _ in points], [value for _, value in points]))
    return sorted(found)


def shown(value: float, unit: str) -> str:
    """A value with its unit, short."""
    if not math.isfinite(value):
        return "-"
    if unit == "percentunit":
        return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
    if unit in ("bytes", "Bps"):
        for size, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}{'/s' if unit == 'Bps' else ''}"
        return f"{value:.3g} B{'/s' if unit == 'Bps' else ''}"
    suffix = {"ops": "/s", "reqps": "/s"}.get(unit, "")
    return f"{value / 1000:.3g} k{suffix}" if abs(value) >= 1000 else f"{value:.3g}{suffix}"


def draw(url: str, board: Dashboard, minutes: float, file: Path) -> None:
    """Draws one dashboard."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    end_s = time.time()
    rendered = board.render()["panels"]
    panels = {panel.title: panel for panel in board.panels}
    rows = max(place["gridPos"]["y"] + place["gridPos"]["h"] for place in rendered)
    height_px = rows * UNIT_PX + 40
    figure = pyplot.figure(figsize=(WIDTH_PX / 100, height_px / 100), dpi=100, facecolor=BACKGROUND)
    figure.text(0.01, 1 - 24 / height_px, board.title, color=INK, fontsize=14, va="center")
    for place in rendered:
        grid = place["gridPos"]
        left, width = grid["x"] / 24, grid["w"] / 24
        bottom = 1 - (40 + (grid["y"] + grid["h"]) * UNIT_PX) / height_px
        height = grid["h"] * UNIT_PX / height_px
        if place["type"] == "row":
            figure.text(left + 0.01, bottom + height / 2, place["title"], color=INK, fontsize=10, va="center")
            continue
        panel = panels[place["title"]]
        card = figure.add_axes((left + 0.004, bottom + 4 / height_px, width - 0.008, height - 8 / height_px))
        card.set(facecolor=CARD, xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
        card.spines[:].set_color(FAINT)
        card.text(0.02, 1 - 14 / (height * height_px), panel.title, color=INK, fontsize=8, va="center", weight="bold")
        series = [
            found
            for wanted in panel.queries
            for found in query(url, wanted.expr, wanted.legend, end_s - minutes * 60, end_s)
        ]
        if panel.kind == "stat":
            _draw_stat(card, panel, series)
            continue
        below = 0.3 if panel.kind == "timeseries" else 0.14
        inset = 0.075 if panel.kind == "state-timeline" else 0.042
        inner = figure.add_axes((left + inset, bottom + height * below, width - inset - 0.016, height * (0.86 - below)))
        _draw_axes(inner, panel, minutes)
        {"heatmap": _draw_heatmap, "state-timeline": _draw_states}.get(panel.kind, _draw_lines)(inner, panel, series)
        if panel.kind == "timeseries":
            _draw_legend(card, series)
    figure.savefig(file, facecolor=BACKGROUND, dpi=DPI)
    pyplot.close(figure)
    # A few colours are enough, and take a third of the space. Pillow comes with matplotlib.
    image: Any = importlib.import_module("PIL.Image")
    with image.open(file) as picture:
        small = picture.convert("RGB").quantize(PALETTE, dither=image.Dither.NONE)
    small.save(file, optimize=True)


def _draw_stat(card: Any, panel: Panel, series: list[Series]) -> None:
    value = series[0][2][-1] if series else math.nan
    red = (panel.red_from is not None and value >= panel.red_from) or (
        panel.red_below is not None and value < panel.red_below
    )
    plain = panel.red_from is None and panel.red_below is None
    colour = "#5794f2" if plain else "#f2495c" if red else "#73bf69"
    card.text(0.5, 0.4, shown(value, panel.unit), color=colour, fontsize=22, ha="center", va="center")


def _draw_axes(axes: Any, panel: Panel, minutes: float) -> None:
    axes.set_facecolor(CARD)
    axes.set_xlim(0, minutes)
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=INK, labelsize=6, length=0)
    axes.grid(color=FAINT, linewidth=0.5)
    if panel.kind == "timeseries":
        axes.yaxis.set_major_formatter(lambda value, _: shown(value, panel.unit))
    axes.set_xticks(range(math.floor(minutes) + 1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value - minutes:.0f} min")


def _draw_lines(axes: Any, panel: Panel, series: list[Series]) -> None:
    for number, (_, times, values) in enumerate(series):
        axes.plot(times, values, color=COLOURS[number % len(COLOURS)], linewidth=0.9)
    axes.set_ylim(bottom=0)


def _draw_legend(card: Any, series: list[Series]) -> None:
    names = [name for name, _, _ in series][:LEGENDS_MAX]
    for number, name in enumerate(names):
        x, y = 0.03 + 0.33 * (number % 3), 0.1 - 0.06 * (number // 3)
        card.text(x, y, "■", color=COLOURS[number % len(COLOURS)], fontsize=6, va="center")
        card.text(x + 0.03, y, name[:30], color=INK, fontsize=6, va="center")
    if len(series) > LEGENDS_MAX:
        card.text(0.97, 0.16, f"and {len(series) - LEGENDS_MAX} more", color=INK, fontsize=6, ha="right", va="center")


def _draw_states(axes: Any, panel: Panel, series: list[Series]) -> None:
    for number, (_, times, values) in enumerate(series):
        leads = [(at, STEP_S / 60) for at, value in zip(times, values, strict=True) if value == 1]
        axes.broken_barh(leads, (number - 0.4, 0.8), color="#73bf69")
    axes.set_yticks(range(len(series)), [name for name, _, _ in series])
    axes.set_ylim(-0.6, len(series) - 0.4)


def _draw_heatmap(axes: Any, panel: Panel, series: list[Series]) -> None:
    buckets = sorted((float(name), times, values) for name, times, values in series if name != "+Inf")
    below = [0.0] * max((len(values) for _, _, values in buckets), default=0)
    cells: list[list[float]] = []
    for _, _, values in buckets:
        counts = values + [0.0] * (len(below) - len(values))
        cells.append([max(0.0, count - before) for count, before in zip(counts, below, strict=True)])
        below = counts
    if cells:
        times = buckets[0][1]
        axes.imshow(
            cells,
            aspect="auto",
            origin="lower",
            cmap="Oranges_r",
            interpolation="nearest",
            extent=(times[0], times[-1], 0, len(cells)),
        )
        axes.set_yticks([n + 0.5 for n in range(len(buckets))], [shown(edge, panel.unit) for edge, _, _ in buckets])
        axes.tick_params(labelsize=5)


def main() -> int:
    """Runs the command line."""
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    TARGET.mkdir(parents=True, exist_ok=True)
    minutes = float(sys.argv[2]) if len(sys.argv) == 3 else 10.0
    for name, board in DASHBOARDS.items():
        draw(sys.argv[1], board, minutes, TARGET / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
