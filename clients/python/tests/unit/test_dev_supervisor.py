"""The supervisor with fake processes and a fake clock."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from dougdb.dev.controls import RefusedWishError
from dougdb.dev.session import SAME_SIGNAL_S, Signals
from dougdb.dev.specs import ChildSpec
from dougdb.dev.supervisor import EXIT_REFUSED, PAUSE_S, RESTART_MAX_S, STOP_S, Supervisor, describe_exit


class FakeProcess:
    def __init__(self, pid: int, world: World, name: str) -> None:
        self.pid = pid
        self.code: int | None = None
        self._world = world
        self._name = name

    def poll(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self._world.events.append(f"TERM {self._name}")
        if self.code is None and self._name not in self._world.stubborn:
            self.code = 0

    def kill(self) -> None:
        self._world.events.append(f"KILL {self._name}")
        self.code = -9

    def pause(self) -> None:
        self._world.events.append(f"STOP {self._name}")

    def resume(self) -> None:
        self._world.events.append(f"CONT {self._name}")

    def tell(self, line: bytes) -> None:
        if self._name in self._world.deaf:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        self._world.events.append(f"{line.decode().strip()} {self._name}")


class World:
    """The clock, the console and the launcher."""

    def __init__(self, run: Path, *, restart: bool = True, refuse_spawn: bool = False) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.events: list[str] = []
        self.stubborn: set[str] = set()
        self.deaf: set[str] = set()
        self.processes: dict[str, FakeProcess] = {}
        self.refuse_spawn = refuse_spawn
        self._pid = 1000
        self.run = run
        self.supervisor = Supervisor(
            [ChildSpec(name, (), {}) for name in ("shard-0-0", "shard-0-1")],
            [ChildSpec("facade", (), {})],
            run=run,
            launcher=self,
            clock=lambda: self.now,
            sleep=self.sleep,
            say=self.said.append,
            restart=restart,
        )

    def start(self, spec: ChildSpec, log: Path) -> FakeProcess:
        if self.refuse_spawn:
            raise OSError(11, "Resource temporarily unavailable")
        self._pid += 1
        self.processes[spec.id] = FakeProcess(self._pid, self, spec.id)
        return self.processes[spec.id]

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def step(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.supervisor.step()

    def die(self, name: str, code: int, words: str = "") -> None:
        if words:
            with (self.run / f"{name}.log").open("a") as log:
                log.write(words + "\n")
        self.processes[name].code = code
        self.step()

    def pid_file(self, name: str) -> str:
        return (self.run / f"{name}.pid").read_text()


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.supervisor.start()
    return world


def test_nodes_start_before_facades_and_leave_their_pids(world: World) -> None:
    assert list(world.processes) == ["shard-0-0", "shard-0-1", "facade"]
    assert [world.pid_file(name) for name in world.processes] == ["1001\n", "1002\n", "1003\n"]


def test_a_killed_child_is_back_after_a_second_and_said_in_one_line(world: World) -> None:
    for _ in range(20):
        before = world.pid_file("shard-0-1")
        world.die("shard-0-1", -signal.SIGKILL)
        world.step(0.9)
        assert world.pid_file("shard-0-1") == before
        world.step(0.1)
        assert world.pid_file("shard-0-1") == f"{world.processes['shard-0-1'].pid}\n" != before
    assert world.said == ["shard-0-1 died (killed by SIGKILL); starting it again in 1 s"] * 20


def test_a_full_disk_stops_nobody_and_the_pid_files_follow(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real, full = Path.write_text, True

    def write_text(self: Path, text: str) -> int:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, text)

    monkeypatch.setattr(Path, "write_text", write_text)
    for name in ("shard-0-0", "facade"):
        world.die(name, -signal.SIGKILL)
    world.step(1.0)
    world.step(1.0)
    assert not (world.run / "shard-0-0.pid").exists(), "an old number would be worse than none"
    assert sum("cannot be written (No space left on device)" in line for line in world.said) == 1
    full = False
    world.step(1.0)
    for name in ("shard-0-0", "facade"):
        assert world.pid_file(name) == f"{world.processes[name].pid}\n"


def test_the_facade_is_restarted_too(world: World) -> None:
    world.die("facade", -signal.SIGKILL)
    world.step(1.0)
    assert world.processes["facade"].pid == 1004


def test_a_crash_loop_slows_down_and_repeats_the_last_line(world: World) -> None:
    delays = []
    for number in range(8):
        world.die("shard-0-0", 1, f"ValueError: number {number}")
        assert f"exit code 1: ValueError: number {number}" in world.said[-1]
        delays.append(float(world.said[-1].split()[-2]))
        world.step(delays[-1])
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30]
    assert all(delay <= RESTART_MAX_S for delay in delays)
    world.now += 60
    world.die("shard-0-0", 1)
    assert world.said[-1].endswith("in 1 s")


def test_a_child_that_refuses_to_start_is_said_so_once(world: World) -> None:
    words = '{"event": "node.refused", "level": "error", "reason": "wal/1.wal: damaged at offset 7"}'
    for _ in range(3):
        world.die("shard-0-0", EXIT_REFUSED, words)
        world.step(RESTART_MAX_S)
    assert world.said == ["shard-0-0 refuses to start: wal/1.wal: damaged at offset 7; starting it again in 30 s"]
    world.die("shard-0-0", EXIT_REFUSED, '{"event": "node.refused", "level": "error", "reason": "another reason"}')
    assert "another reason" in world.said[-1]


def test_a_child_that_refuses_just_before_the_end_is_said_so_once_too(world: World) -> None:
    words = '{"event": "node.refused", "level": "error", "reason": "wal/1.wal: damaged at offset 7"}'
    world.die("shard-0-0", EXIT_REFUSED, words)
    (world.run / "shard-0-1.log").write_text(words + "\n")
    world.processes["shard-0-1"].code = EXIT_REFUSED
    world.processes["facade"].code = -signal.SIGINT
    assert world.supervisor.stop(lambda: False)
    assert world.said == [
        "shard-0-0 refuses to start: wal/1.wal: damaged at offset 7; starting it again in 30 s",
        "shard-0-1 refuses to start: wal/1.wal: damaged at offset 7",
    ]
    assert not list(world.run.glob("*.pid"))


def test_without_restart_a_child_stays_down(tmp_path: Path) -> None:
    world = World(tmp_path, restart=False)
    world.supervisor.start()
    world.die("shard-0-1", -signal.SIGKILL)
    world.step(100)
    assert world.processes["shard-0-1"].pid == 1002
    assert not (tmp_path / "shard-0-1.pid").exists()
    assert world.said == ["shard-0-1 died (killed by SIGKILL); it stays down (--no-restart)"]


def test_a_system_without_room_for_another_process_is_tried_again(tmp_path: Path) -> None:
    world = World(tmp_path, refuse_spawn=True)
    world.supervisor.start()
    assert "cannot be started" in world.said[0]
    world.refuse_spawn = False
    world.step(1.0)
    assert len(world.processes) == 3


def test_facades_stop_first(world: World) -> None:
    assert world.supervisor.stop(lambda: False)
    assert world.events == ["TERM facade", "TERM shard-0-0", "TERM shard-0-1"]
    assert not list(world.run.glob("*.pid"))


def test_whoever_does_not_stop_is_killed_and_named(world: World) -> None:
    world.stubborn = {"shard-0-0"}
    assert not world.supervisor.stop(lambda: False)
    assert world.events[-1] == "KILL shard-0-0"
    assert "did not stop within 10 s" in world.said[-1]
    assert STOP_S <= world.now <= STOP_S + 1


def test_a_second_interrupt_kills_at_once(world: World) -> None:
    world.stubborn = {"facade", "shard-0-0", "shard-0-1"}
    assert not world.supervisor.stop(lambda: world.now >= 1.0)
    assert [event for event in world.events if event.startswith("KILL")] == [
        "KILL facade",
        "KILL shard-0-0",
        "KILL shard-0-1",
    ]
    assert world.now < 2


def test_nothing_is_restarted_while_stopping(world: World) -> None:
    world.die("shard-0-1", -signal.SIGKILL)
    world.supervisor.stop(lambda: False)
    world.step(5)
    assert world.processes["shard-0-1"].pid == 1002


def test_two_signals_at_once_are_one() -> None:
    now = 0.0
    signals = Signals(lambda: now)
    signals.receive(signal.SIGINT)
    signals.receive(signal.SIGINT)
    assert signals.stopping
    assert not signals.urgent
    now += SAME_SIGNAL_S
    signals.receive(signal.SIGTERM)
    assert not signals.urgent
    signals.receive(signal.SIGINT)
    assert signals.urgent


def test_a_refused_setting_ends_it(world: World) -> None:
    world.die("shard-0-0", 2, "DOUGDB_X: no number")
    assert world.supervisor.misused == "shard-0-0 refuses its settings: DOUGDB_X: no number"
    assert not any("starting it again" in said for said in world.said)


def test_settings_that_were_taken_once_are_tried_again(world: World) -> None:
    world.die("shard-0-0", 1)
    world.step(1.0)
    world.die("shard-0-0", 2)
    assert world.supervisor.misused == ""
    assert "starting it again" in world.said[-1]


@pytest.mark.parametrize(
    ("code", "words"), [(3, "exit code 3"), (-9, "killed by SIGKILL"), (-200, "killed by signal 200")]
)
def test_exit_codes_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words


def test_the_console_kills_a_node_which_comes_back(world: World) -> None:
    world.supervisor.kill("shard-0-1")
    world.step()
    assert world.events == ["KILL shard-0-1"]
    with pytest.raises(RefusedWishError, match="does not run"):
        world.supervisor.kill("shard-0-1")
    world.step(1.0)
    assert world.processes["shard-0-1"].code is None
    for name in ("facade", "shard-0-9", ""):
        with pytest.raises(RefusedWishError, match="no node"):
            world.supervisor.kill(name)


def test_a_paused_node_goes_on_by_itself_or_when_it_is_to(world: World) -> None:
    world.supervisor.pause("shard-0-0")
    world.step(PAUSE_S - 1)
    assert world.events == ["STOP shard-0-0"]
    world.step(1)
    world.step(PAUSE_S)
    assert world.events == ["STOP shard-0-0", "CONT shard-0-0", "heal shard-0-0"]
    world.supervisor.pause("shard-0-0")
    world.supervisor.resume("shard-0-0")
    world.step(PAUSE_S)
    assert world.events[3:] == ["STOP shard-0-0", "CONT shard-0-0", "heal shard-0-0"]


def test_a_node_is_told_to_cut_itself_off_and_to_have_a_slow_disk(world: World) -> None:
    world.supervisor.cut("shard-0-0")
    world.supervisor.slow("shard-0-1")
    world.supervisor.resume("shard-0-0")
    assert world.events == ["cut shard-0-0", "slow shard-0-1", "CONT shard-0-0", "heal shard-0-0"]
    world.deaf.add("shard-0-0")
    for wish in (world.supervisor.cut, world.supervisor.slow):
        with pytest.raises(RefusedWishError, match="does not listen"):
            wish("shard-0-0")
        with pytest.raises(RefusedWishError, match="no node"):
            wish("facade")
    world.supervisor.pause("shard-0-0")
    world.supervisor.resume("shard-0-0")
    assert world.events[-1] == "CONT shard-0-0", "it goes on although it does not listen"


def test_a_paused_node_is_stopped_in_order(world: World) -> None:
    world.supervisor.pause("shard-0-0")
    assert world.supervisor.stop(lambda: False)
    assert world.events == ["STOP shard-0-0", "TERM facade", "TERM shard-0-0", "CONT shard-0-0", "TERM shard-0-1"]
