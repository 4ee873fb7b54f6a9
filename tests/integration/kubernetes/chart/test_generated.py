"""What is generated from the chart is up to date, and a drift is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import helm_chart as chart


def test_everything_generated_is_up_to_date(tools: None, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatched = pytest.MonkeyPatch()
    with monkeypatched.context() as patch:
        patch.setattr("sys.argv", ["helm_chart.py", "--check"])
        assert chart.main() == 0, capsys.readouterr().out


def test_drift_is_found_and_mended(
    tools: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over a copy: a changed value, and manifests that are not of it any more."""
    folder = tmp_path / "deploy"
    for path in (*chart.CHART.rglob("*"), chart.PLAIN):
        if path.is_file():
            copy = folder / path.relative_to(chart.ROOT / "deploy")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(chart, "CHART", folder / "helm" / "dougdb")
    monkeypatch.setattr(chart, "PLAIN", folder / "k8s" / "dougdb.yaml")
    monkeypatch.setattr("sys.argv", ["helm_chart.py", "--check"])
    assert chart.main() == 0, capsys.readouterr().out
    values = chart.CHART / "values.yaml"
    values.write_text(values.read_text().replace("requestTimeoutMs: 5000", "requestTimeoutMs: 7000"))
    assert chart.main() == 1
    told = capsys.readouterr().out
    for name in ("README.md", "k8s/dougdb.yaml"):
        assert name in told
    monkeypatch.setattr("sys.argv", ["helm_chart.py"])
    assert chart.main() == 0
    monkeypatch.setattr("sys.argv", ["helm_chart.py", "--check"])
    assert chart.main() == 0


def test_every_value_is_described() -> None:
    assert "| **a.b** | `1` | One. |" in chart.describe_values("a:\n  # -- One.\n  b: 1\n")
    with pytest.raises(ValueError, match=r"does not describe a\.c"):
        chart.describe_values("a:\n  # -- One.\n  b: 1\n  c: 2\n")
    with pytest.raises(ValueError, match="does not describe d"):
        chart.describe_values("# -- A note that belongs to nothing.\n\n# Another one.\nd: 1\n")
