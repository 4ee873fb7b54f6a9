"""Dashboards and alerts: generated, about metrics that exist, understood by Prometheus, and firing when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from exported import exported, facade_registry, node_registry, series
from tools import dashboards, runbooks
from tools.observability.alert import Alert
from tools.observability.alerts import GROUPS
from tools.observability.grafana import Dashboard
from tools.observability.rules import unit_tests

from facade.console.prometheus import expression

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy" / "observability"
ALERTS = [alert for group in GROUPS.values() for alert in group]
NAME = re.compile(r"\b((?:dougdb|grpc|process)_[a-z_]+)\b")
MATCHER = re.compile(r"""(\w+)(?:=~|!~|!=|=)"(?:[^"])*" """.strip())
GROUPING = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
OF_THE_SCRAPE = {"namespace", "job", "pod", "instance", "le"}
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60, check=False)


def concrete(expr: str) -> str:
    """An expression with Grafana's variables put in."""
    return (
        expr.replace("$__rate_interval", "5m").replace("$namespace", ".*").replace("$job", ".*").replace("$shard", ".*")
    )


EXPRESSIONS = [
    pytest.param(query.expr, id=f"{board.uid}: {panel.title}")
    for board in dashboards.DASHBOARDS.values()
    for panel in board.panels
    for query in panel.queries
]
EXPRESSIONS.append(pytest.param(expression((0, 1), 'namespace="dougdb"'), id="console"))
RULES = [pytest.param(alert.expr, id=alert.name) for alert in ALERTS]


# -- what is committed ----------------------------------------------------------------------------------------------


def test_what_is_committed_is_what_is_generated(tmp_path: Path) -> None:
    assert dashboards.stale(dashboards.TARGET) == []
    assert runbooks.TARGET.read_text() == runbooks.module()
    for folder in ("dashboards", "rules"):
        assert (DEPLOY / folder).resolve() == dashboards.TARGET / folder, "there is one copy of them"
        shutil.copytree(DEPLOY / folder, tmp_path / "copy" / folder)
    (tmp_path / "copy" / "dashboards" / "raft.json").write_text("{}")
    (tmp_path / "copy" / "rules" / "stray.yaml").write_text("")
    assert dashboards.stale(tmp_path / "copy") == ["dashboards/raft.json", "rules/stray.yaml"]


# -- expressions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expr", EXPRESSIONS + RULES)
def test_an_expression_uses_metrics_and_labels_that_exist(expr: str) -> None:
    known = series(node_registry()) | series(facade_registry())
    names = set(NAME.findall(expr))
    assert names
    assert names <= known
    labels = {
        label
        for metric in exported(node_registry()) + exported(facade_registry())
        if any(name.startswith(metric.name.removesuffix("_total")) for name in names)
        for label in metric.labels
    }
    used = set(MATCHER.findall(expr)) | {word.strip() for words in GROUPING.findall(expr) for word in words.split(",")}
    assert used <= labels | OF_THE_SCRAPE


@needs_promtool
def test_prometheus_understands_every_expression_of_a_dashboard(tmp_path: Path) -> None:
    rules = [
        f"      - record: panel_{number}\n        expr: {json.dumps(concrete(str(case.values[0])))}\n"
        for number, case in enumerate(EXPRESSIONS)
    ]
    file = tmp_path / "panels.yaml"
    file.write_text("groups:\n  - name: panels\n    rules:\n" + "".join(rules))
    checked = promtool("check", "rules", file)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_graph_of_the_console_leads_to_a_runbook() -> None:
    graphs = (runbooks.TARGET.parents[1] / "views" / "graphs.js").read_text()
    named = set(re.findall(r'"(DougDB\w+)"', graphs))
    assert len(named) >= 10
    assert named <= {alert.name for alert in ALERTS}
    assert runbooks.sections(runbooks.SOURCE.read_text()).keys() == {alert.name for alert in ALERTS}


# -- dashboards -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", dashboards.DASHBOARDS)
def test_a_dashboard_is_well_formed(name: str) -> None:
    board: dict[str, Any] = json.loads((DEPLOY / "dashboards" / f"{name}.json").read_text())
    variables = [variable["name"] for variable in board["templating"]["list"]]
    assert variables == ["datasource", "namespace", "job", "shard"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert target["legendFormat"]
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= {*variables, "__rate_interval"}


def test_dashboards_have_names_of_their_own() -> None:
    boards = dashboards.DASHBOARDS.values()
    assert len({board.uid for board in boards}) == len({board.title for board in boards}) == 4


def test_the_raft_dashboard_shows_term_and_commit_index_by_shard_and_node() -> None:
    board: Dashboard = dashboards.DASHBOARDS["raft"]
    panels = {panel.title: panel for panel in board.panels}
    for title, metric in (("Term", "dougdb_raft_term"), ("Commit index", "dougdb_raft_commit_index")):
        (query,) = panels[title].queries
        assert query.expr.startswith(f"{metric}{{"), "each node has a line of its own"
        assert query.legend == "shard {{shard}} {{pod}}"


def test_every_runbook_that_a_panel_names_is_an_alert() -> None:
    names = {alert.name for alert in ALERTS}
    told = {
        name
        for board in dashboards.DASHBOARDS.values()
        for panel in board.panels
        for name in re.findall(r"DougDB[A-Z]\w+", panel.description)
    }
    assert told
    assert told <= names


# -- alerts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_every_alert_has_a_runbook(alert: Alert) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    part = re.search(rf"^### {alert.name}\n\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert part is not None, f"docs/operations.md has no heading {alert.name}"
    assert len(part[1].split()) > 25, "a runbook says what it means and what to do"
    assert alert.runbook.endswith(f"docs/operations.md#{alert.name.lower()}")
    assert alert.severity in ("warning", "critical")


def test_no_runbook_is_left_over() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    assert set(re.findall(r"^### (DougDB\w+)$", text, re.MULTILINE)) == {alert.name for alert in ALERTS}
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)


@needs_promtool
def test_prometheus_accepts_the_rules() -> None:
    checked = promtool("check", "rules", DEPLOY / "rules" / "dougdb.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(ALERTS)} rules found" in checked.stdout


@needs_promtool
@pytest.mark.parametrize("group", GROUPS)
def test_every_alert_fires_when_it_should_and_keeps_silent_when_not(group: str, tmp_path: Path) -> None:
    text = unit_tests(group)
    for alert in GROUPS[group]:
        assert f"name: {alert.name} fires\n" in text
        assert f"name: {alert.name} keeps silent\n" in text
    shutil.copy(DEPLOY / "rules" / "dougdb.yaml", tmp_path)
    (tmp_path / "tests").mkdir()
    file = tmp_path / "tests" / f"{group}.yaml"
    file.write_text(text)
    tested = promtool("test", "rules", file)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.slow
@needs_promtool
@pytest.mark.parametrize("other", ["vector(1) == 2", "vector(1)"], ids=["never fires", "always fires"])
@pytest.mark.parametrize("group", GROUPS)
def test_the_unit_tests_notice_a_wrong_rule(group: str, other: str, tmp_path: Path) -> None:
    """Every rule is replaced by one without a result, or by one that has always one: each must be found out."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / f"{group}.yaml").write_text(unit_tests(group))
    rules = (DEPLOY / "rules" / "dougdb.yaml").read_text()
    for alert in GROUPS[group]:
        before = "expr: |-\n" + textwrap.indent(alert.expr, " " * 10) + "\n"
        assert before in rules
        rules = rules.replace(before, f"expr: {other}\n")
    (tmp_path / "dougdb.yaml").write_text(rules)
    tested = promtool("test", "rules", tmp_path / "tests" / f"{group}.yaml")
    assert tested.returncode != 0
    for alert in GROUPS[group]:
        assert f"alertname: {alert.name}," in tested.stdout + tested.stderr


def test_the_operators_object_holds_the_same_rules() -> None:
    plain = (DEPLOY / "rules" / "dougdb.yaml").read_text().split("\n", 1)[1]
    printed = subprocess.run(
        [sys.executable, "-m", "tools.dashboards", "--prometheusrule"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    wrapped = printed.stdout
    assert "kind: PrometheusRule\n" in wrapped
    assert textwrap.dedent(wrapped.split("spec:\n", 1)[1]) == plain
