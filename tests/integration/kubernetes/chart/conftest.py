"""The tests of the Helm chart, the image files and their scripts. None of them needs a cluster.

Those that render the chart are skipped, with the reason, where its tools are not installed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tools.helm_chart import CHART
from tools.rendering import Object, missing_tool, render


@pytest.fixture(scope="session")
def tools() -> None:
    """Requires the chart's tools."""
    if reason := missing_tool():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def default(tools: None) -> list[Object]:
    """What the chart gives by default."""
    return render()


@pytest.fixture
def changed_chart(tools: None, tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Makes a copy of the chart with some files written anew."""

    def change(files: dict[str, str]) -> Path:
        copy = tmp_path / "chart"
        shutil.copytree(CHART, copy, dirs_exist_ok=True)
        for name, text in files.items():
            path = copy / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return copy

    return change
