"""Generates deploy/observability from tools/observability: dashboards, alert rules, and the rules' unit tests.

Usage: python -m tools.dashboards [--check]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tools.observability import facade, overview, raft, rules, storage
from tools.observability.alerts import GROUPS

DASHBOARDS = {
    "overview": overview.DASHBOARD,
    "raft": raft.DASHBOARD,
    "storage": storage.DASHBOARD,
    "facade": facade.DASHBOARD,
}
TARGET = Path(__file__).resolve().parent.parent / "deploy" / "observability"


def outputs() -> dict[str, str]:
    """Every generated file by its path below the target."""
    found = {
        f"dashboards/{name}.json": json.dumps(dashboard.render(), indent=1, sort_keys=True) + "\n"
        for name, dashboard in DASHBOARDS.items()
    }
    found["rules/dougdb.yaml"] = rules.plain_rules()
    found["prometheusrule.yaml"] = rules.prometheus_rule()
    found |= {f"rules/tests/{group}.yaml": rules.unit_tests(group) for group in GROUPS}
    return found


def stale(target: Path) -> list[str]:
    """Which files below ``target`` are not what generation gives, those that it does not give included."""
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
    if "--check" in sys.argv[1:]:
        found = stale(TARGET)
        if found:
            print(
                "deploy/observability is not what tools/dashboards.py gives; run `make dashboards`:", *found, sep="\n  "
            )
            return 1
        print("dashboards: the generated dashboards and rules are up to date")
        return 0
    for name, text in outputs().items():
        path = TARGET / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
