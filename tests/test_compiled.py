"""Native modules: the list of them, what keeps a module from it, and that a small build does as Python does.

The tests of the product run on native modules by ``make test-compiled``; these run always, but for those that build,
which need a C compiler and Python's headers.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.compiled import building
from tools.compiled.modules import MODULES, PACKAGES
from tools.compiled.rules import faults_of

PARTS = '''
"""What is made native in these tests."""


class Counter:
    """Counts."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, number: int) -> int:
        """Adds a number."""
        self.value += number
        return self.value


def part(data: bytes, start: int, end: int) -> bytes:
    """A slice."""
    return data[start:end]


def room(data: bytearray, start: int, end: int) -> bytearray:
    """A slice."""
    return data[start:end]
'''
ASKED = """
import sys
from small import parts

edges = (-9, -3, -1, 0, 1, 2, 5, 6, 9, 1 << 70)
print([parts.part(b"a slice", start, end) for start in edges for end in edges])
print([parts.room(bytearray(b"a slice"), start, end) for start in edges for end in edges])
counter = parts.Counter()
print([counter.add(1 << shift) for shift in (0, 31, 62, 63, 64)])
print(parts.__file__, file=sys.stderr)
"""
COROUTINE = "async def wait() -> None:\n    pass\n"
WAITING = '''
"""A stream that goes on after errors, beside another task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Act = Callable[[], Awaitable[None]]


async def write(idle: Act) -> None:
    while True:
        await idle()


async def read(act: Act) -> None:
    failed = 0
    while failed < 7:
        try:
            await act()
        except KeyError:
            failed += 1
            await asyncio.sleep(0)


async def stream(act: Act, idle: Act) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            writer = group.create_task(write(idle))
            await read(act)
            writer.cancel()
    finally:
        str(act)


async def tries(act: Act, idle: Act, times: int) -> int:
    try:
        for _ in range(times):
            await stream(act, idle)
            await asyncio.sleep(0)
    finally:
        await asyncio.sleep(0)
    return times
'''
TRIED = """
import asyncio
from small import parts


async def act():
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(future.set_exception, KeyError("no"))
    await future


async def idle():
    await asyncio.Event().wait()


print(asyncio.run(parts.tries(act, idle, 5)))
"""
GUARDED = """
def numbers():
    try:
        yield 1
    finally:
        pass
"""
FREE = """
def numbers():
    try:
        found = 1
    except ValueError:
        found = 2

    def inner():
        yield found
    with open("name") as file:
        def other():
            yield 2
    yield found
"""
ENDLESS = """
class Tree:
    def walk(self, depth):
        return self.walk(depth + 1)

def walk(depth):
    return walk(depth + 1)
"""


def small(folder: Path, text: str = PARTS) -> dict[str, Path]:
    """The files of a small package."""
    package = folder / "source" / "small"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text('"""A package."""\n')
    (package / "parts.py").write_text(text)
    return {f"small/{name}": package / name for name in ("__init__.py", "parts.py")}


def run(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Runs a program on the small package of a folder."""
    return subprocess.run(
        (sys.executable, "-c", program),
        env={"PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def asked(folder: Path) -> tuple[str, str]:
    """What the small package of a folder gives, and the file that it was read from."""
    done = run(folder, ASKED)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.strip()


def test_every_listed_module_exists_and_may_become_native() -> None:
    assert building.check(building.sources(), MODULES) == []
    assert len(MODULES) == len(set(MODULES))


def test_a_module_that_does_not_exist_is_named() -> None:
    assert building.check(building.sources(), ["facade.nobody"]) == ["facade.nobody: there is no such module"]


def test_a_module_with_a_coroutine_stays_pure() -> None:
    """An exception that a native coroutine has caught would stay the context of the next one, without end."""
    assert faults_of("m", COROUTINE) == ["m:1: a coroutine"]


def test_a_generator_that_yields_inside_try_or_with_stays_pure() -> None:
    assert faults_of("m", GUARDED) == ["m:4: a yield inside try or with"]
    assert faults_of("m", GUARDED.replace("try:", "with open('name'):").partition("    finally")[0]) == [
        "m:4: a yield inside try or with"
    ]
    assert faults_of("m", FREE) == []


def test_a_function_that_calls_itself_stays_pure_unless_its_depth_is_bounded() -> None:
    """Native code counts no depth: too deep is a crash there, not RecursionError."""
    assert faults_of("m", ENDLESS) == ["m:4: a call of itself", "m:7: a call of itself"]
    assert faults_of("m", ENDLESS.replace("(depth + 1)", "(depth + 1)  # bounded depth")) == []


def test_a_folder_is_out_of_date_once_anything_of_it_changes(tmp_path: Path) -> None:
    files, folder = small(tmp_path), tmp_path / "folder"
    folder.mkdir()
    made_of = building.fingerprint(files, ["small.parts"])
    assert not building.is_current(folder, made_of)
    (folder / building.STAMP).write_text(made_of)
    assert building.is_current(folder, building.fingerprint(files, ["small.parts"]))
    assert not building.is_current(folder, building.fingerprint(files, []))
    changed = small(tmp_path, PARTS + "# changed\n")
    assert not building.is_current(folder, building.fingerprint(changed, ["small.parts"]))
    moved = {name.replace("small/", "smaller/"): path for name, path in changed.items()}
    assert building.fingerprint(moved, ["small.parts"]) != building.fingerprint(changed, ["small.parts"])


def test_whether_this_machine_can_build_depends_on_the_compiler_that_is_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Python may name another one than cc, and CI fails where it is there and refuses."""
    monkeypatch.setenv("CC", "no-such-compiler -pthread")
    assert not building.can_build()
    with pytest.raises(building.NotHereError):
        building.build(tmp_path / "folder", small(tmp_path), ["small.parts"])


def test_one_build_at_a_time_is_under_way_for_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "folder"
    with building._alone(folder), folder.with_name("folder.lock").open("w") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with folder.with_name("folder.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_everything_of_the_packages_is_in_the_folder() -> None:
    found = building.sources()
    assert {name.partition("/")[0] for name in found} == set(PACKAGES)
    assert "facade/__main__.py" in found
    assert not [name for name in found if name.endswith(".pyc")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Path]]]:
    """A small package with a native module, and its sources."""
    if not building.can_build():
        pytest.skip("there is no C compiler, or Python's headers are missing (Debian: gcc, python3-dev)")
    base = tmp_path_factory.mktemp("compiled")
    files = small(base)
    folder = base / "made"
    building.build(folder, files, ["small.parts"])
    yield folder, files


@pytest.mark.slow
def test_a_native_module_gives_what_python_gives(built: tuple[Path, dict[str, Path]]) -> None:
    """Above all a slice of bytes that ends before it begins: mypyc alone makes it SystemError; see compiled.h."""
    folder, files = built
    pure, native = asked(files["small/parts.py"].parent.parent), asked(folder)
    assert pure[1].endswith("parts.py") and native[1].endswith(".so")
    assert native[0] == pure[0]


@pytest.mark.slow
@pytest.mark.usefixtures("built")
def test_a_source_that_is_as_it_was_before_is_native_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects of the first build are taken again, which are older than the library of the second.

    The build that takes the second one's place is interrupted while it removes that: no half of it stays in its place.
    """
    folder, files = tmp_path / "made", small(tmp_path)
    other = PARTS.replace("self.value += number", "self.value -= number")
    building.build(folder, files, ["small.parts"])
    first = asked(folder)
    building.build(folder, small(tmp_path, other), ["small.parts"])
    assert asked(folder)[0] != first[0]
    removed = []

    def interrupted(path: Path, **options: bool) -> None:
        removed.append(path)
        if path.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        building.build(folder, small(tmp_path), ["small.parts"])
    assert folder not in removed
    assert asked(folder) == first


@pytest.mark.slow
def test_a_build_that_fails_leaves_the_folder_as_it_was(built: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    folder, _ = built
    before = asked(folder)
    with pytest.raises(building.BuildError, match="mypyc refuses"):
        building.build(folder, small(tmp_path, "def wrong() -> int:\n    return 'text'\n"), ["small.parts"])
    with pytest.raises(building.BuildError, match="a coroutine"):
        building.build(folder, small(tmp_path, COROUTINE), ["small.parts"])
    assert asked(folder) == before


@pytest.mark.slow
def test_what_keeps_coroutines_from_becoming_native_is_still_so(
    built: tuple[Path, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a release of mypyc fails this test, its coroutines go on after an error: look at the rules again."""
    files = small(tmp_path, WAITING)
    assert run(tmp_path / "source", TRIED).stdout == "5\n"
    monkeypatch.setattr(building, "faults_of", lambda name, source: [])
    building.build(tmp_path / "made", files, ["small.parts"])
    native = run(tmp_path / "made", TRIED)
    assert native.returncode != 0 and native.stderr.endswith("KeyError: 'no'\n")
