"""Which kind of cluster the scenarios run against, why none can be had, and the figures that they print at the end.

With KUBECONFIG set that cluster is used, else containers of podman. Where podman does not work the scenarios are
skipped. Where it works and something else is missing they are skipped too, with the reason, but fail with
REQUIRE_CONTAINERS set, as `.ci/run` does: a machine that could have tested must not pass because a download failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from integration.kubernetes.cluster import podman
from tools.helm_chart import ROOT
from tools.rendering import missing_tool

FIGURES: list[str] = []
Figure = Callable[[str], None]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what was measured."""
    if FIGURES:
        terminalreporter.section("figures")
        for line in FIGURES:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def figure() -> Figure:
    """Takes a line for the end of the run."""
    return FIGURES.append


@pytest.fixture(scope="session")
def tools() -> None:
    """Requires the chart's tools."""
    if reason := missing_tool():
        lacking(reason)


def lacking(reason: str) -> None:
    """Skips for something that could be had, or fails where it must be there."""
    if os.environ.get("REQUIRE_CONTAINERS"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def kind() -> str:
    """Which kind of cluster: ``kubectl`` or ``podman``."""
    return "kubectl" if os.environ.get("KUBECONFIG") else "podman"


@pytest.fixture(scope="session")
def images(kind: str) -> None:
    """Builds the images of both services, for podman. A real cluster has to have them already."""
    if kind == "podman":
        if shutil.which("podman") is None:
            pytest.skip("podman is not installed, and KUBECONFIG is not set")
        groups = Path("/sys/fs/cgroup")
        if groups.is_dir() and not (groups / "cgroup.controllers").exists():
            # podman's defaults fail on cgroup v1 without the right to raise limits.
            os.environ.setdefault("CONTAINERS_CONF", str(ROOT / "tools" / "containers" / "containers.conf"))
        if subprocess.run(["podman", "info"], capture_output=True, check=False).returncode:
            pytest.skip("podman does not work here, and KUBECONFIG is not set")
        told = podman.podman("info", "--format", "{{.Host.Security.Rootless}} {{.Host.ServiceIsRemote}}")
        if "true" in told:
            pytest.skip("podman runs without root or elsewhere, so that no container is reached by its address")
    if reason := missing_tool():
        lacking(reason)
    if kind == "podman":
        podman.clean()
        script = str(ROOT / "tools" / "images.sh")
        built = subprocess.run(["sh", script], capture_output=True, text=True, timeout=550, check=False)
        if built.returncode:
            lacking(f"the images cannot be built (make base-image): {built.stderr[-1500:]}")
