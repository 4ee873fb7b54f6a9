"""Storing and verifying a directory tree."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from dougdb import AsyncDougClient, UnavailableError
from dougdb.checks import VALUE_BYTES_MAX
from dougdb.ranges import Entry
from dougdb.shapes import Consistency
from dougdb.tree import RETRY_S, ProblemKind, TreeCopy, scan
from dougdb.tree_export import TreeExport

URL = "http://127.0.0.1:26000"


class FakeTime:
    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def copy_of(store: Any, time: FakeTime) -> tuple[AsyncDougClient, TreeCopy]:
    client = AsyncDougClient(URL, deadline_s=0.0, exactly_once=False, transport=httpx.MockTransport(store.handle))
    return client, TreeCopy([client] * 4, clock=time.clock, sleep=time.sleep)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "pkg" / "deep").mkdir(parents=True)
    (root / "pkg" / "__init__.py").touch()
    (root / "pkg" / "mod.py").write_text("print('hü')\n")
    (root / "pkg" / "deep" / "data.bin").write_bytes(bytes(range(256)))
    (root / "full").write_bytes(b"x" * VALUE_BYTES_MAX)
    return root


async def test_a_tree_is_stored_and_read_back_equal(tree: Path, store: Any) -> None:
    found = scan(tree, "lib/")
    client, copy = copy_of(store, FakeTime())
    async with client:
        await copy.store(found.files)
        await copy.verify(found.files, Consistency.LINEARIZABLE)
        await copy.verify(found.files, Consistency.EVENTUAL)
    assert not found.problems + copy.problems
    assert set(store.values) == {b"lib/full", b"lib/pkg/__init__.py", b"lib/pkg/mod.py", b"lib/pkg/deep/data.bin"}
    assert store.values[b"lib/pkg/deep/data.bin"][0] == bytes(range(256))
    assert store.values[b"lib/pkg/__init__.py"][0] == b""
    assert (copy.stored, copy.verified, copy.stored_bytes) == (4, 8, found.total_bytes)


async def test_whatever_cannot_be_stored_is_named(tree: Path, store: Any) -> None:
    (tree / "large").write_bytes(b"x" * (VALUE_BYTES_MAX + 1))
    (tree / "broken").symlink_to(tree / "nowhere")
    (tree / "pkg" / "loop").symlink_to(tree)
    os.mkfifo(tree / "fifo")
    Path(os.fsdecode(os.path.join(os.fsencode(tree), b"bad\xff"))).touch()
    long = tree / ("d" * 250) / ("e" * 250) / ("f" * 250) / ("g" * 250)
    long.mkdir(parents=True)
    (long / ("h" * 250)).touch()
    found = scan(tree)
    client, copy = copy_of(store, FakeTime())
    async with client:
        await copy.store(found.files)
    kinds = {Path(problem.path).name[:6]: problem.kind for problem in found.problems + copy.problems}
    assert kinds == {
        "large": ProblemKind.TOO_LARGE,
        "broken": ProblemKind.UNREADABLE,
        "loop": ProblemKind.UNREADABLE,
        "fifo": ProblemKind.UNREADABLE,
        "bad\udcff": ProblemKind.BAD_NAME,
        "hhhhhh": ProblemKind.BAD_NAME,
    }
    assert copy.stored == 4


async def test_links_are_followed(tree: Path, store: Any) -> None:
    (tree / "alias").symlink_to(tree / "pkg")
    assert {file.key for file in scan(tree).files} >= {b"alias/mod.py", b"pkg/mod.py"}


async def test_a_file_that_vanished_is_named(tree: Path, store: Any) -> None:
    found = scan(tree)
    (tree / "full").unlink()
    client, copy = copy_of(store, FakeTime())
    async with client:
        await copy.store(found.files)
    assert [problem.kind for problem in copy.problems] == [ProblemKind.UNREADABLE]


def test_a_file_that_vanishes_while_the_tree_is_listed_ends_no_import(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was looked at twice, and had gone the second time."""
    looks: list[bytes | str] = []
    stat = os.stat

    def look(path: Any, **options: Any) -> os.stat_result:
        if os.fsdecode(path).endswith("mod.py"):
            if looks:
                raise FileNotFoundError(2, "No such file or directory", path)
            looks.append(path)
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", look)
    assert "mod.py" in [file.path.name for file in scan(tree).files]


def test_an_interrupted_export_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever imported the directory again stored it as a key."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dougdb.tree_export.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        TreeExport(tmp_path, b"").write([Entry(b"a/b", b"v", "text/plain", "7")])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_a_short_outage_is_outlived(tree: Path, store: Any, make_problem: Any) -> None:
    store.script = [make_problem(503, outcome="not_applied"), httpx.ReadTimeout("slow"), httpx.ConnectError("refused")]
    client, copy = copy_of(store, FakeTime())
    async with client:
        await copy.store(scan(tree).files)
    assert copy.stored == 4
    assert not copy.problems


async def test_a_long_outage_ends_the_copy(tree: Path, store: Any) -> None:
    store.script = [httpx.ConnectError("refused") for _ in range(1000)]
    time = FakeTime()
    client, copy = copy_of(store, time)
    async with client:
        with pytest.raises(UnavailableError):
            await copy.store(scan(tree).files)
    assert copy.stored == 0
    assert time.now - 100.0 <= 4 * RETRY_S


async def test_differences_are_found(tree: Path, store: Any) -> None:
    found = scan(tree)
    client, copy = copy_of(store, FakeTime())
    async with client:
        await copy.store(found.files)
        store.values[b"full"] = (b"x", "text/plain")
        del store.values[b"pkg/mod.py"]
        await copy.verify(found.files, Consistency.EVENTUAL)
    assert {(Path(p.path).name, p.kind) for p in copy.problems} == {
        ("full", ProblemKind.DIFFERS),
        ("mod.py", ProblemKind.MISSING),
    }


async def test_an_eventual_read_may_lag_a_little(tree: Path, store: Any, make_problem: Any) -> None:
    found = scan(tree)
    client, copy = copy_of(store, FakeTime())
    async with client:
        await copy.store(found.files)
        store.script = [make_problem(404, code="not_found"), make_problem(404, code="not_found")]
        await copy.verify(found.files, Consistency.EVENTUAL)
        assert not copy.problems
        store.script = [make_problem(404, code="not_found")]
        await copy.verify(found.files, Consistency.LINEARIZABLE)
    assert [problem.kind for problem in copy.problems] == [ProblemKind.MISSING]


async def test_a_tree_can_be_verified_without_storing_it(tree: Path, store: Any) -> None:
    found = scan(tree)
    first_client, first = copy_of(store, FakeTime())
    second_client, second = copy_of(store, FakeTime())
    async with first_client, second_client:
        await first.store(found.files)
        (tree / "full").write_bytes(b"changed on disk")
        await second.verify(found.files, Consistency.LINEARIZABLE)
    assert [problem.kind for problem in second.problems] == [ProblemKind.DIFFERS]
    assert second.verified == 3
