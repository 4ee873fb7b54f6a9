"""Planted bugs in the outcomes that clients are told."""

from __future__ import annotations

from raft_testing.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "M26",
        "a proposal that is refused for lack of room is in the log all the same",
        (16, 21),
        "raft/node.py",
        '            raise OverloadedError(f"{waiting} bytes in the log are not applied yet")\n',
        "            kind, command, crc = commands[0]\n"
        "            index, time_us = state.log.last_index + 1, max(timestamp_us, state.log.last_timestamp_us)\n"
        "            state.append([entries_codec.encode(index, state.term, kind, time_us, command, crc)])\n"
        '            raise OverloadedError(f"{waiting} bytes in the log are not applied yet")\n',
        "unit/test_raft_replication.py::TestBounds::test_proposals_are_refused_while_too_much_is_not_applied",
    ),
)
