"""Planted bugs in the history of changes, and in watches."""

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
    Mutant(
        "M98",
        "a delete whose key is put again in the same batch is swallowed, as a merge of tables does",
        (26,),
        "kv/changes.py",
        "            if revisions is None or revision in revisions:\n",
        "            if data is None and any(later == key for later, _ in batch[place + 1 :]):\n"
        "                continue\n"
        "            if revisions is None or revision in revisions:\n",
        "unit/test_watches.py::test_a_delete_is_told_although_its_key_is_put_again_at_once",
    ),
    Mutant(
        "M99",
        "duplicate after a snapshot: a watch that goes on within a batch, for this replica caught up in others,"
        " is told the batch from its beginning",
        (19, 25),
        "runtime/reads/watches.py",
        "        if watch.wanted != EVERYTHING or position.place or position.revision > written.after:\n",
        "        if watch.wanted != EVERYTHING:\n",
        "unit/test_watches.py::test_a_replica_that_came_by_a_snapshot_tells_nothing_twice",
    ),
    Mutant(
        "M100",
        "what a leader removes that was removed by the one before it is told to have expired twice",
        (18,),
        "kv/operations/expiry.py",
        "        data = work.read(key)\n",
        "        data = work.read(key)\n"
        "        if data is None and key.startswith(USER_PREFIX):\n"
        "            work.remove(key[1:], ChangeKind.EXPIRE)\n",
        "unit/test_watches.py::test_what_two_leaders_in_a_row_remove_has_expired_once",
    ),
)
