"""Generates dashboards and alert rules from tools/observability, in the one place where they are kept: the Helm chart.

The console's runbooks are made along with them (``tools.runbooks``).

Usage: python -m tools.dashboards [--check | --prometheusrule]

``deploy/observability`` links to them. The same rules as an object of the Prometheus operator are made by the chart,
or printed with ``--prometheusrule``; the rules' unit tests are made when they run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tools import runbooks
from tools.observability import facade, overview, raft, rules, storage

DASHBOARDS = {
    "overview": overview.DASHBOARD,
    "raft": raft.DASHBOARD,
    "storage": storage.DASHBOARD,
    "facade": facade.DASHBOARD,
}
TARGET = Path(__file__).resolve().parent.parent / "deploy" / "helm" / "dougdb"


def outputs() -> dict[str, str]:
    """Every generated file by its path below the target."""
    found = {
        f"dashboards/{name}.json": json.dumps(dashboard.render(), indent=1, sort_keys=True) + "\n"
        for name, dashboard in DASHBOARDS.items()
    }
    found["rules/dougdb.yaml"] = rules.plain_rules()
    return found


def stale(target: Path) -> list[str]:
    """The files below ``target`` that differ from the generated ones, and those that are not generated at all."""
    wanted = outputs()
    known = {
        path.relative_to(target).as_posix()
        for folder in ("dashboards", "rules")
        for path in (target / folder).rglob("*")
        if path.is_file()
    }
    differ = {name for name, text in wanted.items() if not _equal(target / name, text)}
    return sorted(differ | (known - set(wanted)))


def _equal(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


def main() -> int:
    """Runs the command line."""
    if "--prometheusrule" in sys.argv[1:]:
        sys.stdout.write(rules.prometheus_rule())
        return 0
    if "--check" in sys.argv[1:]:
        found = stale(TARGET)
        if found:
            print(
                "deploy/helm/dougdb is not what tools/dashboards.py gives; run `make dashboards`:", *found, sep="\n  "
            )
            return 1
        if not _equal(runbooks.TARGET, runbooks.module()):
            print("the console's runbooks are not those of docs/operations.md; run `make dashboards`")
            return 1
        print("dashboards: the generated dashboards, rules and runbooks are up to date")
        return 0
    for name, text in outputs().items():
        path = TARGET / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    runbooks.TARGET.write_text(runbooks.module())
    return 0


if __name__ == "__main__":
    sys.exit(main())
