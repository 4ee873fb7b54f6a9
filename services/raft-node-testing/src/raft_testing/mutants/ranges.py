"""Planted bugs in the facade's work on ranges of keys."""

from __future__ import annotations

from raft_testing.mutants.mutant import Mutant

_PAGES = "service/test_ranges.py::test_pages_follow_each_other_without_a_gap"
_ALL_ALONG = "service/test_ranges.py::test_keys_that_are_there_all_along_come_once_while_others_come_and_go"

MUTANTS = (
    Mutant(
        "M88",
        "a scan tells keys of slots that another shard owns, or of none",
        (14,),
        "client/scan.py",
        "        if [0, *lasts] != [*firsts, SLOTS]:\n",
        "        if not bounds:\n",
        "service/test_ranges.py::test_while_slots_move_nothing_is_told_rather_than_too_little",
        "facade",
        by_seeds=False,
    ),
    Mutant(
        "M89",
        "a page begins with the last key of the page before",
        (14,),
        "client/scan.py",
        'else record.key + b"\\0"\n',
        "else record.key\n",
        _ALL_ALONG,
        "facade",
        by_seeds=False,
    ),
    Mutant(
        "M90",
        "a page leaves out the key behind the last one of the page before",
        (14,),
        "client/scan.py",
        'else record.key + b"\\0"\n',
        "else after_prefix(record.key[:-1] + bytes((record.key[-1] + 1,)))\n",
        _PAGES,
        "facade",
        by_seeds=False,
    ),
    Mutant(
        "M91",
        "of several shards, what lies behind the end of the shortest page is told before its turn",
        (14,),
        "client/scan.py",
        "stream.take(max(lasts) if reverse else min(lasts))",
        "stream.take(min(lasts) if reverse else max(lasts))",
        _ALL_ALONG,
        "facade",
        by_seeds=False,
    ),
    Mutant(
        "M92",
        "a scan on a node tells keys of slots that its shard does not own any more",
        (14,),
        "kv/visibility.py",
        " or not stored.epoch or stored.epoch != epochs[slot_of(key)]:\n",
        ":\n",
        "unit/test_scan_stream.py::test_a_scan_tells_its_point_in_the_log_first_and_its_end_last",
        by_seeds=False,
    ),
)
