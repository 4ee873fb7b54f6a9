"""Builds Grafana dashboards: a few kinds of panels, laid out row by row, every one with a unit and a description.

Must not know the contents. Invariants: panel ids are unique, panels do not overlap, and every query goes to the data
source that the reader chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Json = dict[str, Any]
Kind = Literal["timeseries", "stat", "state-timeline", "heatmap"]

COLUMNS = 24
SCHEMA_VERSION = 39
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
GREEN, RED, ORANGE, BLUE = "green", "red", "orange", "blue"


@dataclass(frozen=True, slots=True)
class Query:
    """One expression, and the name of its series."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        title: The panel's heading.
        queries: The queries whose series it shows.
        unit: Grafana's name of the unit.
        description: The meaning of the figures, for readers.
        kind: Grafana's type of the panel.
        width: The width in columns, of which there are 24.
        height: The height in grid units.
        red_from: The value from which on it is red; None: none.
        red_below: The value below which it is red; None: none.
        stacked: Whether the series are stacked.
    """

    title: str
    queries: tuple[Query, ...]
    unit: str
    description: str
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    red_from: float | None = None
    red_below: float | None = None
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    """A drop-down whose values are those of a label."""

    name: str
    query: str
    label: str


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]
    tags: tuple[str, ...] = field(default=("dougdb",))

    @property
    def panels(self) -> list[Panel]:
        """Every panel in order."""
        return [panel for row in self.rows for panel in row.panels]

    def render(self) -> Json:
        """The dashboard as Grafana imports it."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": list(self.tags),
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "templating": {"list": [_datasource(), *map(_variable, self.variables)]},
            "annotations": {"list": []},
            "links": [_links()],
            "panels": self._place(),
        }

    def _place(self) -> list[Json]:
        placed: list[Json] = []
        top = 0
        for row in self.rows:
            placed.append(_row(len(placed) + 1, row.title, top))
            top += 1
            left = height = 0
            for panel in row.panels:
                if left + panel.width > COLUMNS:
                    left, top, height = 0, top + height, 0
                grid = {"x": left, "y": top, "w": panel.width, "h": panel.height}
                placed.append(_panel(len(placed) + 1, panel, grid))
                left, height = left + panel.width, max(height, panel.height)
            top += height
        return placed


def _datasource() -> Json:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}}


def _variable(variable: Variable) -> Json:
    return {
        "name": variable.name,
        "label": variable.label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,
        "sort": 3,
        "multi": True,
        "includeAll": True,
        # Series without such a label are shown, too: outside Kubernetes there is no namespace.
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def _links() -> Json:
    return {"type": "dashboards", "title": "DougDB", "tags": ["dougdb"], "asDropdown": True, "includeVars": True}


def _row(number: int, title: str, top: int) -> Json:
    grid = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": grid, "panels": []}


def _thresholds(panel: Panel) -> Json:
    steps: list[Json] = [{"color": GREEN if panel.red_from is not None else BLUE, "value": None}]
    if panel.red_from is not None:
        steps.append({"color": RED, "value": panel.red_from})
    if panel.red_below is not None:
        steps = [{"color": RED, "value": None}, {"color": GREEN, "value": panel.red_below}]
    return {"mode": "absolute", "steps": steps}


def _panel(number: int, panel: Panel, grid: Json) -> Json:
    defaults: Json = {"unit": panel.unit, "thresholds": _thresholds(panel)}
    options: Json = {}
    if panel.kind == "timeseries":
        defaults["min"] = 0
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stacked else 8,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none"},
        }
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    elif panel.kind == "stat":
        options = {
            "colorMode": "value",
            "graphMode": "area",
            "textMode": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "values": False},
        }
    elif panel.kind == "state-timeline":
        defaults["mappings"] = [
            {"type": "value", "options": {"0": {"text": "-", "color": "transparent"}, "1": {"text": "leader"}}}
        ]
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [{"color": "transparent", "value": None}, {"color": GREEN, "value": 1}],
        }
        options = {"showValue": "never", "mergeValues": True, "rowHeight": 0.8}
    else:
        options = {
            "calculate": False,
            "yAxis": {"unit": panel.unit},
            "color": {"scheme": "Oranges", "mode": "scheme"},
            "cellGap": 1,
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "gridPos": grid,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "range": True,
                **({"format": "heatmap"} if panel.kind == "heatmap" else {}),
            }
            for place, query in enumerate(panel.queries)
        ],
    }
