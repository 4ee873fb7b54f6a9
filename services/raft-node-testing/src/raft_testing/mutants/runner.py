"""Applies planted bugs to copies of the packages, and runs tests and seeds of the simulator against the copies.

Invariants:
1. The checkout is never changed, except for the table that ``table`` writes.
2. At most ``processes`` children run at a time. An interrupt or SIGTERM ends them and removes the copies.
3. A mutant counts as killed by its test only if the test passes without it and fails with it, while it runs, on the
   module of the copy; and by a seed only if the seed holds without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from raft_testing.mutants.mutant import Mutant
from raft_testing.mutants.witness import PREFIX, Verdict

TEST_LIMIT_S = 180
"""How long a test may take; with a mutant it may hang, which does not count as a failure."""

SEEDS_LIMIT_S = 900
"""How long all seeds of one mutant may take together."""

_SEED = re.compile(r"^seed (\d+) (ok|FAIL) ")
_SOURCES = (
    "services/raft-node/src/raft_node",
    "services/facade/src/facade",
    "services/raft-node-testing/src/raft_testing",
)
_LINES_BYTES_MAX = 1 << 20
_MEMORY_BYTES_MAX = 4 << 30


class Outcome(NamedTuple):
    """The result of a mutant.

    Attributes:
        mutant: The mutant.
        test_failure: How its directed test failed; empty if it did not.
        test_problem: Why the test does not count; empty if the test killed the mutant.
        seed: The first seed that found it; 0 if none did.
        seed_failure: The failure of that seed; empty if none found it.
        seeds_problem: Why no seed counts; empty if a seed killed the mutant, or if seeds were not asked for.
    """

    mutant: Mutant
    test_failure: str
    test_problem: str
    seed: int
    seed_failure: str
    seeds_problem: str

    @property
    def survived(self) -> bool:
        """Whether the test or the seeds did not find it."""
        return bool(self.test_problem or self.seeds_problem)

    def line(self) -> str:
        """The result as one line."""
        mutant = self.mutant
        if not self.survived:
            found = f", seed {self.seed}" if self.seed else ""
            return f"{mutant.name} killed by {mutant.test}{found}"
        parts = [self.test_problem or f"killed by {mutant.test}"]
        if self.seed or self.seeds_problem:
            parts.append(self.seeds_problem or f"seed {self.seed}")
        return f"{mutant.name} SURVIVED: {'; '.join(parts)}"


def checkout() -> Path:
    """The root of the checkout that contains this module.

    Raises:
        FileNotFoundError: The module is in no checkout, so there are no tests to run.
    """
    root = Path(__file__).resolve().parents[5]
    if not all((root / path).is_dir() for path in (*_SOURCES, "services/raft-node/tests")):
        raise FileNotFoundError(f"planted bugs need a checkout with its tests, and {root} is none")
    return root


class Runner:
    """Runs mutants of one checkout.

    Args:
        root: The checkout.
        seeds: How many seeds are tried to find a mutant; 0: the simulator is not run.
        processes: How many children may run at a time.
    """

    def __init__(self, root: Path, seeds: int, processes: int) -> None:
        self._root = root
        self._seeds = seeds
        self._free = asyncio.Semaphore(processes)
        self._sound: dict[tuple[str, str], asyncio.Task[str]] = {}
        self._holds: dict[int, asyncio.Task[str]] = {}
        self._original: Path | None = None

    async def run(self, mutants: Sequence[Mutant], tell: Callable[[Outcome], None]) -> list[Outcome]:
        """Runs mutants, calls ``tell`` with each result as it comes, and returns all in the order of the list."""
        with self._copy(None) as original:
            self._original = original
            try:
                return list(await _all([self._judge(mutant, tell) for mutant in mutants]))
            finally:
                await _cancel([*self._sound.values(), *self._holds.values()])

    async def _judge(self, mutant: Mutant, tell: Callable[[Outcome], None]) -> Outcome:
        async with self._free:
            with self._copy(mutant) as copy:
                failure, problem = await self._directed(copy, mutant)
                seed, seed_failure, seeds_problem = 0, "", ""
                if self._seeds and mutant.by_seeds:
                    seed, seed_failure, seeds_problem = await self._random(copy)
        outcome = Outcome(mutant, failure, problem, seed, seed_failure, seeds_problem)
        tell(outcome)
        return outcome

    async def _directed(self, copy: Path, mutant: Mutant) -> tuple[str, str]:
        """The failure of the directed test, and the reason why it does not count; one of both is empty."""
        key = (mutant.test_id, mutant.module)
        if key not in self._sound:
            self._sound[key] = asyncio.create_task(self._passes(*key))
        if problem := await self._sound[key]:
            return "", f"{mutant.test} does not pass without the mutant: {problem}"
        verdict = await self._witness(copy, mutant.test_id, mutant.module)
        if verdict.broken:
            return "", f"{mutant.test} tells nothing: {verdict.broken}"
        if not verdict.failed:
            return "", f"{mutant.test} passes"
        return verdict.reason, ""

    async def _passes(self, test: str, module: str) -> str:
        """Runs a test without the mutant; returns its failure, empty if it passes."""
        assert self._original is not None
        verdict = await self._witness(self._original, test, module)
        if verdict.broken or verdict.failed:
            return verdict.broken or verdict.reason
        return ""

    async def _witness(self, copy: Path, test: str, module: str) -> Verdict:
        arguments = ("raft_testing.mutants.witness", str(copy), module, test)
        last = ""
        try:
            async with asyncio.timeout(TEST_LIMIT_S), self._child(copy, arguments) as lines:
                async for line in lines:
                    last = line if line.startswith(PREFIX) else last
        except TimeoutError:
            return Verdict(0, 0, f"it did not end within {TEST_LIMIT_S} s", "")
        if not last:
            return Verdict(0, 0, "its process ended without a verdict", "")
        return Verdict(**json.loads(last.removeprefix(PREFIX)))

    async def _random(self, copy: Path) -> tuple[int, str, str]:
        """The first seed that fails (0 if none does), its failure, and the reason why none counts."""
        seed, failure = 0, ""
        done = 0
        try:
            async with asyncio.timeout(SEEDS_LIMIT_S), self._child(copy, self._simulate(1, self._seeds)) as lines:
                async for line in lines:
                    if match := _SEED.match(line):
                        done, verdict = int(match[1]), match[2]
                        seed = done if verdict == "FAIL" else 0
                    elif seed and line.startswith("FAILED "):
                        failure = line.removeprefix("FAILED ")
                        break
        except TimeoutError:
            return 0, "", f"only {done} of {self._seeds} seeds ended within {SEEDS_LIMIT_S} s"
        if not seed:
            what = f"no seed of 1..{self._seeds} failed" if done == self._seeds else f"the seeds ended after {done}"
            return 0, "", what
        if seed not in self._holds:
            self._holds[seed] = asyncio.create_task(self._seed_holds(seed))
        if not await self._holds[seed]:
            return 0, "", f"seed {seed} fails without the mutant, too"
        return seed, failure, ""

    async def _seed_holds(self, seed: int) -> str:
        """Runs a seed without the mutant; returns a text that is not empty if it holds."""
        assert self._original is not None
        held = ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TEST_LIMIT_S), self._child(self._original, self._simulate(seed, 1)) as lines:
                async for line in lines:
                    if (match := _SEED.match(line)) and match[2] == "ok":
                        held = line
        return held

    def _simulate(self, first: int, count: int) -> tuple[str, ...]:
        return ("raft_testing", "--seed", str(first), "--seeds", str(count), "--processes", "1")

    @contextlib.contextmanager
    def _copy(self, mutant: Mutant | None) -> Iterator[Path]:
        """A copy of the packages with a mutant in it, or without any."""
        stem = Path(mutant.path).stem if mutant is not None else ""

        def ignored(folder: str, names: list[str]) -> list[str]:
            # Compiled modules are copied, too, except that of the changed module.
            return [name for name in names if folder.endswith("__pycache__") and name.startswith(f"{stem}.")]

        with tempfile.TemporaryDirectory(prefix="doug-mutant-", ignore_cleanup_errors=True) as folder:
            copy = Path(folder).resolve()
            # All copies are made of the checkout at one moment, so that later edits change no outcome.
            for path in _SOURCES:
                name = Path(path).name
                source = self._root / path if self._original is None else self._original / name
                shutil.copytree(source, copy / name, ignore=ignored)
            if mutant is not None:
                module = copy / mutant.package / mutant.path
                module.write_text(mutant.apply(module.read_text()))
            yield copy

    @contextlib.asynccontextmanager
    async def _child(self, copy: Path, arguments: Sequence[str]) -> AsyncIterator[AsyncIterator[str]]:
        """Runs ``python -m`` with the copy in front of everything, and gives the lines that it prints."""
        path = [str(copy), *(str(self._root / "protos" / part) for part in ("gen", "wire"))]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *arguments),
            cwd=self._root,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path),
                "PYTHONUNBUFFERED": "1",
                "PYTHONSAFEPATH": "1",
                "HYPOTHESIS_STORAGE_DIRECTORY": str(copy / "hypothesis"),
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINES_BYTES_MAX,
            start_new_session=True,
        )
        _bound_memory(process.pid)
        try:
            assert process.stdout is not None
            yield _lines(process.stdout)
        finally:
            # The child may have children of its own; they share its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())


def _bound_memory(pid: int) -> None:
    """Limits the memory of a child, so that a mutant that fills it for ever ends before the machine does."""
    if sys.platform == "linux":
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, (_MEMORY_BYTES_MAX, _MEMORY_BYTES_MAX))


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    while line := await stream.readline():
        yield line.decode(errors="replace").rstrip("\n")


async def _all(work: Sequence[Coroutine[None, None, Outcome]]) -> Sequence[Outcome]:
    """Waits for all; if one fails or the wait is cancelled, all others are cancelled."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


async def _cancel(tasks: Iterable[asyncio.Task[Outcome] | asyncio.Task[str]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
