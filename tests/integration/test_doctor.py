"""dougctl's doctor, top, verify, bench and watch as users call them: a healthy cluster, and one fault after the other.

Clocks and disks are changed by a module that Python imports at a node's start (``sitecustomize``): the node knows
nothing of it.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.cluster import Cluster, dougctl, wait_for
from bench.http11 import HttpError, Response, Secure, fetch
from tools.certs import Authority

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

NODES = 3
WAIT_S = 120.0
WIDTH = 80
UNAVAILABLE = 4
"""The exit code when no facade answers."""
SKEW_MS, SYNC_MS = 5_000, 500
SHIM = """
import os, time

_folder, _name = os.environ.get("TEST_FAULTS", ""), os.environ.get("DOUGDB_NODE_ID", "")
_time_ns, _fdatasync, _statvfs = time.time_ns, os.fdatasync, os.statvfs


def _asked(what):
    try:
        with open(os.path.join(_folder, f"{what}-{_name}")) as file:
            return int(file.read() or "0")
    except OSError:
        return 0


def _late(descriptor):
    time.sleep(_asked("sync") / 1000)
    _fdatasync(descriptor)


def _full(path):
    told = list(_statvfs(path))
    if _asked("full"):
        told[3] = told[4] = 0  # f_bfree, f_bavail
    return os.statvfs_result(told)


if _name:
    time.time_ns = lambda: _time_ns() + _asked("clock") * 1_000_000
    os.fdatasync, os.statvfs = _late, _full
"""


class SecureCluster(Cluster):
    """A cluster with TLS everywhere."""

    def __init__(self, folder: Path, *, certs: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self.options += ["--tls", str(certs)]
        self._secure = Secure(ssl.create_default_context(cafile=certs / "ca.crt"), "localhost")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def request(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        timeout_s: float = 15.0,
    ) -> Response:
        return fetch(self.port, method, target, body, headers, timeout_s=timeout_s, secure=self._secure)


class Broken:
    """A cluster with TLS whose nodes can be broken, each in one way at a time."""

    def __init__(self, folder: Path, new_cluster: Callable[..., Cluster]) -> None:
        self._folder = folder
        (folder / "sitecustomize.py").write_text(SHIM)
        authority = Authority.make()
        for name, days in (("certs", 90.0), ("expired", -0.01)):
            (folder / name).mkdir()
            authority.write(folder / name)
            authority.write_certificate(folder / name, ("localhost", "127.0.0.1", "::1"), days)
        self.cluster = new_cluster(
            kind=SecureCluster, shards=1, nodes=NODES, certs=folder / "certs", options=["--no-restart"],
            environment={"PYTHONPATH": str(folder), "TEST_FAULTS": str(folder)},
        ).start()  # fmt: skip

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [dougctl(), "--url", self.cluster.url, "--ca-file", str(self._folder / "certs" / "ca.crt"), *arguments],
            env=self.cluster.environment, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        print(f"{' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def doctor(self, *options: str) -> list[dict[str, Any]] | None:
        """The findings; None if the facade did not answer. How full this machine's disk is counts for nothing."""
        done = self.run("doctor", "--json", "--free-min", "0", *options)
        if done.returncode == UNAVAILABLE:
            return None
        findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
        assert done.returncode == (1 if findings else 0)
        return findings

    def is_healthy(self) -> bool:
        """What else the machine does counts for nothing here."""
        return self.doctor("--wait", "0.5", "--sync-max", "10000", "--skew-max", "4000") == []

    def follower(self) -> str:
        leader = self.cluster.await_leader("0").id
        return next(name for name in self.cluster.node_ids if name != leader)

    # Faults, each until the end of its block.

    @contextlib.contextmanager
    def dead(self, name: str) -> Iterator[None]:
        launch = self.cluster.launch_of(name)
        self.cluster.kill(name)
        try:
            yield
        finally:
            self.cluster.start_again(name, launch)

    @contextlib.contextmanager
    def expired(self, name: str) -> Iterator[None]:
        launch = self.cluster.launch_of(name)
        self.cluster.kill(name)
        self.cluster.start_again(name, launch.replaced(str(self._folder / "certs"), str(self._folder / "expired")))
        try:
            yield
        finally:
            self.cluster.kill(name)
            self.cluster.start_again(name, launch)

    @contextlib.contextmanager
    def shimmed(self, what: str, name: str, figure: int) -> Iterator[None]:
        path = self._folder / f"{what}-{name}"
        path.write_text(str(figure))
        try:
            yield
        finally:
            path.unlink()

    def full_disk(self, name: str) -> contextlib.AbstractContextManager[None]:
        return self.shimmed("full", name, 1)

    def slow_disk(self, name: str) -> contextlib.AbstractContextManager[None]:
        return self.shimmed("sync", name, SYNC_MS)

    def skewed_clock(self, name: str) -> contextlib.AbstractContextManager[None]:
        return self.shimmed("clock", name, SKEW_MS)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, new_cluster: Callable[..., Cluster]) -> Broken:
    return Broken(tmp_path_factory.mktemp("faults"), new_cluster)


@pytest.fixture
def written(broken: Broken) -> Iterator[None]:
    """Somebody writes all the time, for a disk is seen to be slow by what it syncs."""
    over = threading.Event()

    def write() -> None:
        while not over.wait(0.05):
            with contextlib.suppress(HttpError):
                broken.cluster.request("PUT", "/v1/kv/written", b"again")

    writer = threading.Thread(target=write)
    writer.start()
    yield
    over.set()
    writer.join()


def narrow(done: subprocess.CompletedProcess[str]) -> bool:
    return all(len(line) <= WIDTH for line in done.stdout.splitlines())


def test_nothing_is_wrong_with_a_healthy_cluster(broken: Broken) -> None:
    wait_for(broken.is_healthy, WAIT_S, "doctor to find nothing")
    shown = broken.run("top", "--once")
    assert shown.returncode == 0 and narrow(shown)
    assert all(name in shown.stdout for name in broken.cluster.node_ids)
    measured = broken.run("bench", "--duration", "1s", "--keys", "50", "--rate", "50", "--json")
    assert json.loads(measured.stdout)["answered"] > 0
    drawn = broken.run("bench", "--duration", "500ms", "--keys", "10", "--connections", "2")
    assert "requests answered" in drawn.stdout and narrow(drawn)
    assert broken.run("put", "watched", "1").returncode == 0
    watched = broken.run("watch", "--prefix", "watched", "--from", "start", "--count", "1", "--json")
    assert json.loads(watched.stdout)["value"] == "1"


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Broken.dead, "unreachable"),
        (Broken.full_disk, "disk_full"),
        (Broken.slow_disk, "slow_disk"),
        (Broken.skewed_clock, "clock_skew"),
        (Broken.expired, "certificate_expired"),
    ],
)
def test_a_fault_is_found_with_the_way_out_and_the_promises_are_kept(
    broken: Broken, fault: Callable[[Broken, str], contextlib.AbstractContextManager[None]], code: str
) -> None:
    wait_for(broken.is_healthy, WAIT_S, "doctor to find nothing")
    name = broken.follower()

    def found() -> dict[str, Any] | None:
        findings = broken.doctor("--wait", "2", "--sync-max", str(SYNC_MS // 2)) or ()
        return next((each for each in findings if (each["where"], each["code"]) == (name, code)), None)

    with fault(broken, name):
        finding = wait_for(found, WAIT_S, f"{code} at {name}")
        assert finding["what"] and finding["way_out"]
        shown = json.loads(broken.run("top", "--once", "--json").stdout)
        assert {each["node"] for each in shown["nodes"]} == set(broken.cluster.node_ids)
        verified = broken.run("verify", "--duration", "2s", "--processes", "2", "--json")
        assert verified.returncode == 0, "nothing is broken by it"
        assert json.loads(verified.stdout)["good"]
        measured = broken.run("bench", "--duration", "500ms", "--keys", "10", "--connections", "2", "--json")
        assert json.loads(measured.stdout)["answered"] > 0
    wait_for(broken.is_healthy, WAIT_S, "doctor to find nothing any more")
