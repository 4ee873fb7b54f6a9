"""Keeps the processes of a local cluster running, and stops them in order.

It knows processes only by the protocols of ``processes``, and the time only by the clock passed to it; ``step`` is
called several times a second and never waits. Invariants:

1. A pid file names the process that runs now; it is rewritten before anything else is printed about a new process. If
   that fails, for instance on a full disk, there is no pid file until it succeeds: this is printed once, and stops
   nobody.
2. A child that was killed from outside is back after ``RESTART_S``. One that keeps dying by itself soon after its start
   is restarted ever more slowly, up to ``RESTART_MAX_S``.
3. A child that refuses to start (exit code 3: its data is damaged, or not its own) is said to do so once, and is tried
   again only every ``RESTART_MAX_S``. One that refuses while everything stops is said to do so as well.
4. Facades stop before nodes, so that no request meets a facade whose nodes are gone.
5. A node that was paused goes on after ``PAUSE_S`` by itself, and before it is asked to stop. The other faults are the
   node's own, which end by themselves as well.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dougdb.dev.controls import RefusedWishError
from dougdb.dev.logs import Console, LogFile
from dougdb.dev.processes import Launcher, Process
from dougdb.dev.specs import ChildSpec

RESTART_S = 1.0
PID_RETRY_S = 1.0
RESTART_MAX_S = 30.0
QUICK_DEATH_S = 5.0
STOP_S = 10.0
POLL_S = 0.05
PAUSE_S = 60.0
EXIT_REFUSED = 3
EXIT_USAGE = 2
"""The exit code of a process with a wrong setting, which another start cannot help."""


@dataclass(slots=True)
class Child:
    """One process and its history.

    Attributes:
        process: The running process; None if none runs.
        started_at: When it was last started, in seconds of the clock.
        restart_at: When it is to be started again; None if it runs or stays down.
        quick_deaths: How often in a row it died by itself soon after its start.
        refused_with: Its last line when it last refused to start; empty if it never did.
        starts: How often it was started.
        pid_due_at: When to try again to write its pid file; None if the file is right.
        resume_at: When it is to go on; None if it is not paused.
    """

    spec: ChildSpec
    log: LogFile
    pid_path: Path
    process: Process | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    quick_deaths: int = 0
    refused_with: str = field(default="")
    starts: int = 0
    pid_due_at: float | None = None
    resume_at: float | None = None


class Supervisor:
    """Starts, watches, restarts and stops the children.

    Args:
        nodes: The nodes, started first and stopped last.
        facades: The facades.
        run: The directory of the pid files and logs.
        launcher: Starts processes.
        clock: Monotonic seconds.
        sleep: Waits for some seconds; used while stopping only.
        say: Prints one line.
        restart: Whether a child that dies is started again.

    Attributes:
        misused: The child that refused its settings at its first start, with its reason; empty if none did.
    """

    def __init__(
        self,
        nodes: list[ChildSpec],
        facades: list[ChildSpec],
        *,
        run: Path,
        launcher: Launcher,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        say: Callable[[str], None],
        restart: bool = True,
    ) -> None:
        def child(spec: ChildSpec) -> Child:
            return Child(spec, LogFile(run / f"{spec.id}.log"), run / f"{spec.id}.pid")

        self.nodes = [child(spec) for spec in nodes]
        self.facades = [child(spec) for spec in facades]
        self._launcher = launcher
        self._clock = clock
        self._sleep = sleep
        self._say = say
        self._restart = restart
        self._pids_troubled = False
        self.misused = ""
        self._console = Console(say, clock)

    @property
    def children(self) -> list[Child]:
        """All children."""
        return self.nodes + self.facades

    def start(self) -> None:
        """Starts every child for the first time."""
        for child in self.children:
            child.pid_path.unlink(missing_ok=True)
            child.log.rotate()
        for child in self.children:
            self._start(child)

    def step(self) -> None:
        """Notices dead children, starts those again that are due, and shows new log lines."""
        for child in self.children:
            for line in child.log.read_lines():
                self._console.show(child.spec.id, line)
            if child.process is not None:
                code = child.process.poll()
                if code is not None:
                    self._bury(child, code)
                elif child.resume_at is not None and self._clock() >= child.resume_at:
                    self.resume(child.spec.id)
                elif child.pid_due_at is not None and self._clock() >= child.pid_due_at:
                    self._note_pid(child)
            elif child.restart_at is not None and self._clock() >= child.restart_at:
                self._start(child)

    # Requests of the console.

    def kill(self, name: str) -> None:
        """Kills a node, as a crash would.

        Raises:
            RefusedWishError: No node has this name, or it does not run.
        """
        _, process = self._running(name)
        self._say(f"killing {name}, as the console asks")
        process.kill()

    def pause(self, name: str) -> None:
        """Pauses a node for ``PAUSE_S``; raises what ``kill`` does."""
        child, process = self._running(name)
        process.pause()
        child.resume_at = self._clock() + PAUSE_S
        self._say(f"{name} is paused for {PAUSE_S:.0f} s, as the console asks")

    def cut(self, name: str) -> None:
        """Cuts a node off from the other nodes for a minute; raises what ``kill`` does."""
        self._tell(name, b"cut\n")
        self._say(f"{name} is cut off from the other nodes for a minute, as the console asks")

    def slow(self, name: str) -> None:
        """Makes a node's disk slow for a minute; raises what ``kill`` does."""
        self._tell(name, b"slow\n")
        self._say(f"{name} has a slow disk for a minute, as the console asks")

    def resume(self, name: str) -> None:
        """Lets a paused node go on, and ends its other faults; raises what ``kill`` does."""
        child, process = self._running(name)
        process.resume()
        child.resume_at = None
        # One that does not listen has no faults of this kind.
        with contextlib.suppress(OSError):
            process.tell(b"heal\n")
        self._say(f"{name} goes on")

    def _tell(self, name: str, line: bytes) -> None:
        try:
            self._running(name)[1].tell(line)
        except OSError:
            raise RefusedWishError(f"{name} does not listen now.") from None

    def _running(self, name: str) -> tuple[Child, Process]:
        for child in self.nodes:
            if child.spec.id == name:
                if child.process is None or child.process.poll() is not None:
                    raise RefusedWishError(f"{name} does not run now.")
                return child, child.process
        raise RefusedWishError(f"There is no node {name[:64]!r}.")

    def stop(self, is_urgent: Callable[[], bool]) -> bool:
        """Stops all facades, and then all nodes.

        Args:
            is_urgent: Called again and again; once it returns True, all children are killed.

        Returns:
            Whether every child stopped by itself.
        """
        orderly = True
        for child in self.children:
            child.restart_at = None
        for group in (self.facades, self.nodes):
            orderly = self._stop_group(group, is_urgent) and orderly
        return orderly

    def _stop_group(self, group: list[Child], is_urgent: Callable[[], bool]) -> bool:
        for child in group:
            if child.process is not None:
                child.process.terminate()
                if child.resume_at is not None:
                    child.process.resume()
        deadline = self._clock() + STOP_S
        while self._reap(group) and self._clock() < deadline and not is_urgent():
            self._sleep(POLL_S)
        left = self._reap(group)
        for child in left:
            assert child.process is not None
            self._say(f"{child.spec.id} (pid {child.process.pid}) {self._why_killed(is_urgent)}; killing it")
            child.process.kill()
        while self._reap(group):
            self._sleep(POLL_S)
        return not left

    @staticmethod
    def _why_killed(is_urgent: Callable[[], bool]) -> str:
        return "was not given the time to stop" if is_urgent() else f"did not stop within {STOP_S:.0f} s"

    def _reap(self, group: list[Child]) -> list[Child]:
        """Removes the pid files of children that have ended; returns the children that still run."""
        left = []
        for child in group:
            code = None if child.process is None else child.process.poll()
            if child.process is not None and code is None:
                left.append(child)
                continue
            if code == EXIT_REFUSED and (refusal := self._refusal(child)):
                # Nobody has looked since it ended; whoever stops everything for it would never know why.
                self._say(refusal)
            child.process = None
            child.pid_path.unlink(missing_ok=True)
        return left

    def _start(self, child: Child) -> None:
        child.restart_at = None
        child.starts += 1
        child.started_at = self._clock()
        try:
            child.process = self._launcher.start(child.spec, child.log.path)
        except OSError as error:
            child.quick_deaths += 1
            self._lose(child, f"{child.spec.id} cannot be started ({error.strerror or error})", self._delay_s(child))
            return
        self._note_pid(child)

    def _note_pid(self, child: Child) -> None:
        assert child.process is not None
        try:
            _write_pid(child.pid_path, child.process.pid)
            child.pid_due_at = None
        except OSError as error:
            child.pid_due_at = self._clock() + PID_RETRY_S
            # The pid of an earlier process would be worse than none.
            with contextlib.suppress(OSError):
                child.pid_path.unlink(missing_ok=True)
            if not self._pids_troubled:
                self._pids_troubled = True
                self._say(f"{child.pid_path} cannot be written ({error.strerror or error}); trying again")

    def _bury(self, child: Child, code: int) -> None:
        """Decides whether and when a child that has ended is started again."""
        name, lived_s = child.spec.id, self._clock() - child.started_at
        child.process, child.pid_due_at, child.resume_at = None, None, None
        for line in child.log.read_lines():
            self._console.show(name, line)
        if code == EXIT_REFUSED:
            self._lose(child, self._refusal(child), RESTART_MAX_S)
            return
        if code == EXIT_USAGE and child.starts == 1:
            self.misused = self.misused or f"{name} refuses its settings: {child.log.last_words() or child.log.path}"
            return
        child.refused_with = ""
        killed_from_outside = code in (-signal.SIGKILL, -signal.SIGTERM)
        child.quick_deaths = child.quick_deaths + 1 if lived_s < QUICK_DEATH_S and not killed_from_outside else 0
        words = "" if code <= 0 else child.log.last_words()
        death = f"{name} died ({describe_exit(code)}{f': {words}' if words else ''})"
        self._lose(child, death, self._delay_s(child))

    @staticmethod
    def _refusal(child: Child) -> str:
        """That a child refuses to start, and why; empty if that was said before."""
        words = child.log.last_words()
        again = words == child.refused_with
        child.refused_with = words
        return "" if again else f"{child.spec.id} refuses to start: {words or 'see ' + str(child.log.path)}"

    def _lose(self, child: Child, message: str, delay_s: float) -> None:
        """Prints that a child has ended, and when it will be started again."""
        if self._restart:
            child.restart_at = self._clock() + delay_s
            fate = f"starting it again in {delay_s:.0f} s"
        else:
            child.pid_path.unlink(missing_ok=True)
            fate = "it stays down (--no-restart)"
        if message:
            self._say(f"{message}; {fate}")

    @staticmethod
    def _delay_s(child: Child) -> float:
        doublings = min(max(child.quick_deaths - 1, 0), 10)
        return float(min(RESTART_S * 2**doublings, RESTART_MAX_S))


def describe_exit(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _write_pid(path: Path, pid: int) -> None:
    # The file is replaced as a whole, so that a reader never finds half a number.
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(f"{pid}\n")
    temporary.replace(path)
