"""The clusters of the scenarios: one of the default size for all that only disturb it, and small ones of their own."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Generator, Iterator

import pytest
from integration.kubernetes.cluster.driver import Cluster
from integration.kubernetes.cluster.helm import Release, namespace
from integration.kubernetes.cluster.kubectl import POD_NETWORK, kubectl_cluster
from integration.kubernetes.cluster.podman import podman_cluster
from tools.helm_chart import CHART

LAPTOP = ("--values", str(CHART / "values-kind.yaml"))
SAFETY = {"test_backups.py", "test_outages.py", "test_restarts.py"}
LIVE: list[Cluster] = []
NewCluster = Callable[..., contextlib.AbstractContextManager[Cluster]]
NewRelease = Callable[[str], contextlib.AbstractContextManager[Release]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives every scenario its marks and its time: it waits for elections, restarts and builds of images."""
    for item in items:
        if "scenarios" in item.path.parts:
            item.add_marker(pytest.mark.integration)
            item.add_marker(pytest.mark.seconds)
            item.add_marker(pytest.mark.timeout(2400))
        if item.path.name in SAFETY:
            item.add_marker(pytest.mark.safety)


@pytest.fixture(scope="session")
def new_release(kind: str, images: None, tmp_path_factory: pytest.TempPathFactory) -> NewCluster:
    """Makes a release of the chart that is not installed yet; it is removed at the end of the block."""
    numbers = itertools.count()

    @contextlib.contextmanager
    def make(*values: str) -> Iterator[Cluster]:
        tag = f"c{next(numbers)}"
        if kind == "kubectl":
            one: contextlib.AbstractContextManager[Cluster] = kubectl_cluster(*LAPTOP, *values, tag=tag)
        else:
            one = podman_cluster(*LAPTOP, *values, tag=tag, folder=tmp_path_factory.getbasetemp())
        with one as cluster:
            LIVE.append(cluster)
            try:
                yield cluster
            except BaseException:
                # A release of one test is gone when its report is made.
                print(cluster.logs())
                raise
            finally:
                LIVE.remove(cluster)

    return make


@pytest.fixture
def own_release(kind: str, tools: None) -> NewRelease:
    """Makes a release in a namespace of its own, for tests that change it as users do, by helm and kubectl."""
    if kind != "kubectl" or not os.environ.get(POD_NETWORK):
        pytest.skip("needs a real cluster whose pods are in reach, as make test-kube has it")

    @contextlib.contextmanager
    def make(tag: str) -> Iterator[Release]:
        with namespace(tag) as one:
            try:
                yield one
            except BaseException:
                print(one.shown())
                raise

    return make


@pytest.fixture(scope="session")
def cluster(new_release: NewCluster, figure: Callable[[str], None]) -> Iterator[Cluster]:
    """Two shards of five and two facades, installed all at once."""
    with new_release() as one:
        began_s = time.monotonic()
        one.install()
        pods = len(one.nodes()) + len(one.facades())
        figure(f"installation of {pods} pods, until all are ready: {time.monotonic() - began_s:.1f} s")
        yield one


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds what the pods logged to the report of a failed scenario."""
    report = yield
    if report.failed:
        report.sections += [("the end of every pod's log", cluster.logs()) for cluster in LIVE]
    return report
