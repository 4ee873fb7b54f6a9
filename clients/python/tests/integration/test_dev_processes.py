"""``dougctl dev`` with real processes that only pretend to be nodes: signals, pid files, locks, ports."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dougdb.dev.layout import Layout
from dougdb.dev.ports import PortPlan, taken
from dougdb.dev.session import SAME_SIGNAL_S

pytestmark = [pytest.mark.integration, pytest.mark.light, pytest.mark.seconds]
LAYOUT = Layout(2, 3)
START_S = 60.0
NAMES = ["facade", *(LAYOUT.node_id(*place) for place in LAYOUT.places())]


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = START_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Dev:
    """One started ``dougctl dev``; the console goes to a file."""

    def __init__(self, fakes: Path, data: Path, plan: PortPlan, console: Path, *options: str, **env: str) -> None:
        self.data = data
        self.console_path = console
        with console.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    str(fakes / "dev.py"),
                    str(plan.layout.shards),
                    str(plan.layout.nodes),
                    str(data),
                    str(plan.facade_port),
                    str(plan.base_port),
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
            )

    @property
    def console(self) -> str:
        return self.console_path.read_text()

    def wait_until_ready(self, but: str = "") -> None:
        """Waits until it says that it is ready, and every child runs but one.

        The fake facade is ready whether the fake nodes run or not.
        """
        self.wait_for_line("ready: http")
        names = [name for name in NAMES if name != but]
        wait_for(lambda: all(self.runs(name) for name in names), "the processes")

    def wait_for_line(self, words: str) -> None:
        """Waits until the console shows something."""
        wait_for(lambda: words in self.console or self.process.poll() is not None, repr(words))
        assert self.process.poll() is None, self.console

    def runs(self, name: str) -> bool:
        """Whether a child has taken its signals and ports, by its own word."""
        path = self.data / "run" / f"{name}.log"
        return path.exists() and '"started"' in path.read_text()

    def pids(self) -> dict[str, int]:
        return {path.stem: int(path.read_text()) for path in (self.data / "run").glob("*.pid")}

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(START_S)


Start = Callable[..., Dev]


@pytest.fixture
def plan() -> PortPlan:
    for base in range(26100, 26900, 100):
        plan = PortPlan(LAYOUT, base, base + 90, 1)
        if not taken(plan.listeners(["127.0.0.1"])):
            return plan
    raise AssertionError("no free ports in 26100-26999")


@pytest.fixture
def start(fakes: Path, plan: PortPlan, tmp_path: Path) -> Iterator[Start]:
    started: list[Dev] = []

    def start_dev(*options: str, data: str = "data", **environment: str) -> Dev:
        dev = Dev(fakes, tmp_path / data, plan, tmp_path / f"console-{len(started)}", *options, **environment)
        started.append(dev)
        return dev

    yield start_dev
    for dev in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(dev.process.pid, signal.SIGKILL)
        dev.process.wait()


def test_a_cluster_starts_heals_and_stops_in_order(start: Start) -> None:
    dev = start(FAKE_WARN="shard-1-1")
    dev.wait_until_ready()
    pids = dev.pids()
    assert sorted(pids) == sorted(NAMES)
    for victim in ("facade", "shard-0-0"):
        os.kill(pids[victim], signal.SIGKILL)
    wait_for(lambda: all(dev.pids()[name] != pids[name] for name in ("facade", "shard-0-0")), "the restart")
    assert dev.console.count("died (killed by SIGKILL); starting it again in 1 s") == 2
    assert dev.console.count("curl") == 3
    dev.wait_for_line("shard-1-1: warning: disk.slow fsync_ms=900")
    pids = dev.pids()
    assert dev.end(signal.SIGINT) == 0
    assert not dev.pids()
    assert not [name for name, pid in pids.items() if is_alive(pid)]
    assert dev.console.endswith("stopping the facade, then the nodes\nstopped\n")
    assert dev.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_stop_it_too_and_the_data_is_found_again(start: Start, number: signal.Signals) -> None:
    for _ in range(2):
        dev = start()
        dev.wait_until_ready()
        assert dev.end(number) == 0


def test_a_second_start_is_refused_and_touches_nothing(start: Start) -> None:
    dev = start()
    dev.wait_until_ready()
    same = start()
    assert same.process.wait(START_S) == 2
    assert f"in use by another dougctl dev (pid {dev.process.pid})" in same.console
    other = start(data="other")
    assert other.process.wait(START_S) == 2
    assert "the client port of shard-0-0, is taken" in other.console
    assert not other.data.exists()
    assert dev.end(signal.SIGINT) == 0


def test_the_children_follow_a_supervisor_that_was_killed_also_one_that_was_paused(start: Start) -> None:
    first = start()
    first.wait_until_ready()
    pids = first.pids()
    os.kill(pids["shard-0-1"], signal.SIGSTOP)
    first.process.kill()
    second = start()
    second.wait_until_ready()
    wait_for(lambda: not any(map(is_alive, pids.values())), "the end of the first ones")
    assert second.end(signal.SIGINT) == 0


def test_a_child_that_refuses_is_said_so_once_and_the_rest_goes_on(start: Start) -> None:
    dev = start(FAKE_EXIT="shard-1-2=3")
    dev.wait_until_ready(but="shard-1-2")
    refusal = "shard-1-2 refuses to start: wal/1.wal: damaged at offset 7: the checksum does not fit"
    dev.wait_for_line(refusal)
    assert dev.end(signal.SIGINT) == 0
    assert dev.console.count(refusal) == 1


def test_a_node_that_refuses_a_setting_ends_it_with_2_and_the_reason(start: Start) -> None:
    dev = start(FAKE_EXIT="shard-1-2=2")
    assert dev.process.wait(START_S) == 2
    assert "shard-1-2 refuses its settings: wal/1.wal" in dev.console.splitlines()[-1]
    assert not list((dev.data / "run").glob("*.pid"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc to see ignored signals in")
def test_what_it_starts_takes_an_interrupt_even_where_it_was_started_without(start: Start) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        dev = start()
    finally:
        signal.signal(signal.SIGINT, before)
    dev.wait_until_ready()
    for name, pid in dev.pids().items():
        status = Path(f"/proc/{pid}/status").read_text()
        ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn:")).split()[1], 16)
        assert not ignored & 1 << (signal.SIGINT - 1), name
    assert dev.end(signal.SIGINT) == 0


def test_a_full_console_stops_nothing(start: Start, tmp_path: Path) -> None:
    (tmp_path / "console-0").symlink_to("/dev/full")
    dev = start()
    wait_for(lambda: (dev.data / "run").is_dir() and len(dev.pids()) == len(NAMES), "the processes")
    victim = dev.pids()["shard-0-1"]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: dev.pids().get("shard-0-1", victim) != victim, "the restart")
    assert dev.end(signal.SIGINT) == 0


def test_no_restart(start: Start) -> None:
    dev = start("--no-restart")
    dev.wait_until_ready()
    os.kill(dev.pids()["shard-0-1"], signal.SIGKILL)
    dev.wait_for_line("it stays down")
    assert "shard-0-1" not in dev.pids()
    assert dev.end(signal.SIGINT) == 0


def test_a_second_interrupt_kills_what_does_not_stop(start: Start) -> None:
    dev = start(FAKE_IGNORE_TERM="shard-0-1")
    dev.wait_until_ready()
    pid = dev.pids()["shard-0-1"]
    others = [each for each in dev.pids().values() if each != pid]
    dev.process.send_signal(signal.SIGINT)
    dev.wait_for_line("stopping the facade, then the nodes")
    wait_for(lambda: not any(is_alive(each) for each in others), "the end of the others")
    assert is_alive(pid)
    # One that comes at once is taken for the same, as a terminal and a parent may both send it.
    time.sleep(SAME_SIGNAL_S)
    assert dev.end(signal.SIGINT) == 130
    assert not is_alive(pid)
    assert f"shard-0-1 (pid {pid}) was not given the time to stop; killing it" in dev.console
