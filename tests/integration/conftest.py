"""Fixtures of the integration tests: clusters of real processes that never outlive their test module.

The tests use the package ``bench`` at the repository's root for starting clusters, for load and for measuring.
"""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from bench.cluster import Cluster  # noqa: E402 - the path has to be set first

LIVE: list[Cluster] = []


def pytest_configure(config: pytest.Config) -> None:
    """Ends the clusters also when the test run itself is asked to stop, by a time limit around it for example."""

    def stop(number: int, frame: FrameType | None) -> None:
        pytest.exit(f"ended by signal {number}")

    signal.signal(signal.SIGTERM, stop)


@pytest.fixture(scope="module")
def new_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters (not started yet); ends their processes and removes their data after the module."""
    made: list[Cluster] = []

    def make(**options: Any) -> Cluster:
        folder = options.pop("folder", None) or tmp_path_factory.mktemp("cluster")
        cluster: Cluster = options.pop("kind", Cluster)(folder, **options)
        made.append(cluster)
        LIVE.append(cluster)
        return cluster

    try:
        yield make
    finally:
        for cluster in made:
            cluster.close()
            LIVE.remove(cluster)
            shutil.rmtree(cluster.folder, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds what the clusters printed and logged to the report of a failed test."""
    report = yield
    if report.failed:
        report.sections += [(f"the end of every log in {cluster.folder}", cluster.tail()) for cluster in LIVE]
    return report
