"""Planted bugs in the write-ahead log, the tables and the manifest."""

from __future__ import annotations

from raft_node.testing.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "M46",
        "an append to the log is not synced",
        (3, 24),
        "storage/wal.py",
        "        # Votes, acknowledgements and commits rest on this frame from here on.\n"
        "        self._file.sync_data()\n",
        "",
        "unit/test_wal.py::test_one_append_is_one_write_and_one_sync",
    ),
    Mutant(
        "M47",
        "a failed sync of the log is ignored",
        (35,),
        "storage/wal.py",
        "        # Votes, acknowledgements and commits rest on this frame from here on.\n"
        "        self._file.sync_data()\n",
        "        try:\n            self._file.sync_data()\n        except DiskError:\n            pass\n",
        "unit/test_wal.py::test_after_a_failed_write_or_sync_the_log_refuses_further_use",
    ),
    Mutant(
        "M48",
        "the torn tail of the log is not cut off before the next append",
        (33,),
        "storage/wal_recovery.py",
        "    _zero_tail(file, end, newest.header.segment_bytes)\n",
        "",
        "unit/test_wal_recovery.py::test_cut_at_every_byte_of_the_last_frame",
    ),
    Mutant(
        "M49",
        "damage in the middle of the log is taken for a torn tail",
        (34,),
        "storage/record.py",
        "    if find(data, position, framing, sequence) is not None:\n"
        '        return Damage(position, "a frame is damaged, and a valid one follows it")\n',
        "    if sequence > 1:\n        return None\n",
        "unit/test_wal_recovery.py::test_zeros_in_the_middle_are_refused",
    ),
    Mutant(
        "M50",
        "the payload of a frame is not compared with its checksum",
        (33, 34),
        "storage/record.py",
        "    return crc32c(memoryview(data)[position + HEADER_BYTES : end], framing.seed) == frame.payload_crc\n",
        "    return True\n",
        "unit/test_wal_recovery.py::test_cut_at_every_byte_of_the_last_frame",
    ),
    Mutant(
        "M51",
        "a segment that is used again still holds its old frames",
        (33,),
        "storage/wal.py",
        "                self._fill(file, self._options.segment_bytes)\n",
        "",
        "unit/test_wal_compaction.py::test_a_dropped_segment_becomes_the_next_one_and_holds_nothing_of_its_past",
    ),
    Mutant(
        "M52",
        "the name of a new segment is not synced before its first frame",
        (38, 33),
        "storage/wal.py",
        "        # The name must be durable before anything in the file is acknowledged.\n"
        "        self._fs.sync_directory(self._directory)\n",
        "",
        "unit/test_wal.py::test_a_new_segment_is_durable_by_name_zeros_and_header_before_its_first_frame",
    ),
    Mutant(
        "M53",
        "a truncation does not reach the log on disk",
        (5, 33),
        "storage/wal.py",
        "wal_segment.encode_payload(hard_state, truncate_from, entries)",
        "wal_segment.encode_payload(hard_state, None, entries)",
        "unit/test_wal.py::test_truncate_then_append_then_reopen",
    ),
    Mutant(
        "M54",
        "a log goes back to a prefix that a crash brought back",
        (33, 27),
        "storage/wal_recovery.py",
        "            return header.first_segment\n",
        "            return segment_ids[0]\n",
        "unit/test_wal_compaction.py::test_a_crash_may_bring_any_of_the_removed_segments_back",
    ),
    Mutant(
        "M55",
        "a checkpoint's list is written before the names of its tables are durable",
        (38, 25),
        "storage/checkpoint.py",
        "        # All names must be durable before the list makes a checkpoint of them.\n"
        "        fs.sync_directory(path)\n",
        "",
        "unit/test_checkpoint.py::test_a_checkpoint_is_durable_once_it_is_made_and_before_that_it_is_none",
    ),
    Mutant(
        "M56",
        "CURRENT names a manifest whose name and tables are not durable yet",
        (38,),
        "storage/manifest.py",
        "        self._fs.sync_directory(self._directory)\n        replace_file(",
        "        replace_file(",
        "unit/test_manifest.py::test_a_crash_at_any_step_leaves_the_version_before_or_after",
    ),
    Mutant(
        "M57",
        "a small file is renamed into place before its content is durable",
        (38,),
        "storage/manifest.py",
        "    # A rename may become durable before the content does.\n    file.sync_data()\n",
        "",
        "unit/test_manifest.py::test_a_crash_at_any_step_leaves_the_version_before_or_after",
    ),
    Mutant(
        "M58",
        "an edit of the manifest counts before it is durable",
        (38,),
        "storage/manifest.py",
        "        self._file.write_at(self._size, [data])\n        self._file.sync_data()\n",
        "        self._file.write_at(self._size, [data])\n",
        "unit/test_manifest.py::test_an_edit_is_durable_once_append_returns",
    ),
    Mutant(
        "M59",
        "a compaction drops a tombstone although a deeper table holds its key",
        (38,),
        "storage/compaction.py",
        "        for deeper_level in range(output_level + 1, LEVELS)\n",
        "        for deeper_level in range(output_level + 2, LEVELS)\n",
        "unit/test_compaction.py::test_deeper_tables_are_named_as_far_as_they_overlap",
    ),
    Mutant(
        "M60",
        "the tables of a compaction go before the manifest says so",
        (38,),
        "storage/engine.py",
        "        self._manifest.append(edit, after)\n",
        "        for number in removed if not (isinstance(task, CompactionTask) and task.move) else ():\n"
        "            self._view.tables[number].pin()\n"
        '            self._fs.remove(f"{self._directory}/{table_name(number)}")\n'
        "        self._manifest.append(edit, after)\n",
        "unit/test_engine.py::test_a_crash_at_any_step_loses_nothing_and_brings_nothing_back",
    ),
    Mutant(
        "M61",
        "a block of a table is not compared with its checksum",
        (34,),
        "storage/block.py",
        "    if crc32c(memoryview(sealed)[: end + 1]) != crc:\n",
        "    if crc < 0:\n",
        "unit/test_block.py::test_every_flipped_bit_of_a_sealed_block_is_found",
    ),
    Mutant(
        "M62",
        "the oldest table of level 0 stays above newer ones that were merged down",
        (38,),
        "storage/compaction.py",
        "    tables = version.levels[0][-options.l0_inputs_max :]\n",
        "    tables = version.levels[0][: options.l0_inputs_max]\n",
        "unit/test_compaction.py::test_level_0_takes_the_oldest_when_there_are_many",
    ),
)
