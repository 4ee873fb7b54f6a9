"""Planted bugs in the history of changes, and in what watches tell of it."""

from __future__ import annotations

from raft_testing.mutants.mutant import Mutant

_LOG = "unit/test_watches.py::test_what_is_told_is_the_log_whatever_was_flushed_and_from_every_position_on"

MUTANTS = (
    Mutant(
        "M81",
        "the last batch of a memtable is not in the history once the next one begins",
        (26,),
        "storage/changes/history.py",
        "        self._chapters.append(_Chapter(self.upto))\n",
        "        self._chapters.append(_Chapter(self.upto))\n"
        "        if self._chapters[-2].written:\n"
        "            self._chapters[-2].written.pop()\n",
        _LOG,
    ),
    Mutant(
        "M82",
        "a watch that goes on behind a change tells that change again",
        (19,),
        "kv/changes.py",
        "        if revision < revision_after or (revision == revision_after and not place_after):\n",
        "        if revision < revision_after:\n",
        _LOG,
    ),
    Mutant(
        "M83",
        "progress is ahead of what was told, by the batches that did not go into the same message",
        (10,),
        "runtime/reads/watches.py",
        "            upto = written.upto\n            size += len(records)\n",
        "            upto = found[-1].upto\n            size += len(records)\n",
        "unit/test_watches.py::test_progress_never_runs_ahead_of_what_was_told",
        by_seeds=False,
    ),
    Mutant(
        "M84",
        "after a snapshot the history goes on where it was, with what lies between left out",
        (25,),
        "storage/changes/history.py",
        "        if self._kept and self._kept[-1].upto != mark:\n",
        "        if False:\n",
        "unit/test_history.py::test_a_state_that_does_not_follow_the_segments_drops_them",
        by_seeds=False,
    ),
    Mutant(
        "M85",
        "a key's expiry is told although a later write has kept the key",
        (18,),
        "kv/operations/expiry.py",
        "            if stored.expires_us == deadline_us and work.ownership.is_present(key[1:], stored.epoch):\n",
        "            if work.ownership.is_present(key[1:], stored.epoch):\n",
        "unit/test_watches.py::test_a_key_whose_expiry_was_put_off_is_not_told_to_have_expired",
    ),
    Mutant(
        "M86",
        "the changes of a transaction that come behind a place in it are left out when a watch goes on there",
        (22,),
        "kv/changes.py",
        "            if place >= skipped and wanted.wants(found.kind, found.key):\n",
        "            if not skipped and wanted.wants(found.kind, found.key):\n",
        _LOG,
    ),
    Mutant(
        "M87",
        "a segment is kept as history without a sync",
        (38,),
        "storage/changes/segments.py",
        "            if self._durable and self._file is not None:\n",
        "            if False and self._file is not None:\n",
        "unit/test_history.py::test_a_crash_before_any_operation_of_a_flush_leaves_no_gap",
        by_seeds=False,
    ),
)
