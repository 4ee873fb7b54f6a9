"""Versions of the tree: levels, edits, and which tables may hold a key."""

from __future__ import annotations

import pytest

from raft_node.storage.tables.version import LEVELS, TableMeta, Version, VersionEdit, VersionError


def table(number: int, smallest: bytes = b"a", largest: bytes = b"z", size: int = 100) -> TableMeta:
    return TableMeta(number, size, 10, 0, smallest, largest)


def add(version: Version, *added: tuple[int, TableMeta], removed: tuple[int, ...] = ()) -> Version:
    next_number = max([version.next_table_number, *(entry.number + 1 for _, entry in added)])
    return version.apply(VersionEdit(removed, added, version.flushed_index + 1, 1, next_number))


def numbers(version: Version, level: int) -> list[int]:
    return [entry.number for entry in version.levels[level]]


def test_level_0_keeps_the_newest_table_first() -> None:
    version = add(add(Version.empty(), (0, table(1))), (0, table(2)), (0, table(3)))
    assert numbers(version, 0) == [3, 2, 1]


def test_deeper_levels_are_sorted() -> None:
    version = add(Version.empty(), (1, table(1, b"m", b"p")), (1, table(2, b"a", b"b")), (1, table(3, b"x", b"y")))
    assert numbers(version, 1) == [2, 1, 3]


def test_an_edit_makes_the_whole_version_again() -> None:
    version = add(Version.empty(), (0, table(1)), (0, table(2)), (1, table(3, b"c", b"d")), (1, table(4, b"a", b"b")))
    assert Version.empty().apply(version.as_edit()) == version


def test_a_table_moves_to_the_next_level() -> None:
    version = add(Version.empty(), (1, table(1)))
    moved = add(version, (2, table(1)), removed=(1,))
    assert (numbers(moved, 1), numbers(moved, 2)) == ([], [1])


@pytest.mark.parametrize(
    "edit",
    [
        VersionEdit((9,), (), 1, 1, 2),  # Not there.
        VersionEdit((), ((0, table(1)),), 1, 1, 2),  # Already there.
        VersionEdit((), ((0, table(2)),), 1, 1, 2),  # The number was not given out.
        VersionEdit((), ((LEVELS, table(2)),), 1, 1, 3),
        VersionEdit((), ((0, table(2, b"z", b"a")),), 1, 1, 3),
        VersionEdit((), ((0, TableMeta(2, 10, 0, 0, b"a", b"b")),), 1, 1, 3),
        VersionEdit((), ((1, table(2, b"a", b"m")), (1, table(3, b"m", b"z"))), 1, 1, 4),  # They overlap.
        VersionEdit((), (), 0, 1, 2),  # Back in the log.
        VersionEdit((), (), 1, 1, 1),  # Numbers again.
    ],
)
def test_an_edit_that_does_not_fit_is_refused(edit: VersionEdit) -> None:
    version = add(Version.empty(), (0, table(1)))
    with pytest.raises(VersionError):
        version.apply(edit)


def test_overlapping_tables_of_a_level_are_found() -> None:
    version = add(Version.empty(), (1, table(1, b"a", b"c")), (1, table(2, b"e", b"g")), (1, table(3, b"i", b"k")))
    found = [
        [entry.number for entry in version.overlapping(1, *ends)] for ends in [(b"c", b"e"), (b"d", b"d"), (b"", b"z")]
    ]
    assert found == [[1, 2], [], [1, 2, 3]]
    assert version.level_bytes(1) == 300
