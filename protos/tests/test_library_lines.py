"""How many lines of libraries a log takes."""

from __future__ import annotations

import logging

from doug_wire.library_lines import LINES_BURST, LINES_PER_S, BoundedLines, add_left_out


def record(name: str) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "", 0, "broken", (), None)


def test_each_library_has_so_many_and_its_next_one_tells_what_was_left_out() -> None:
    now_s = [1000.0]
    bounded = BoundedLines(lambda: now_s[0])
    assert sum(bounded.filter(record("grpc")) for _ in range(LINES_BURST + 7)) == LINES_BURST
    other = record("asyncio")
    assert bounded.filter(other)
    assert add_left_out(None, "error", {"_record": other}) == {"_record": other}
    now_s[0] += 1 / LINES_PER_S
    next_one = record("grpc")
    assert bounded.filter(next_one)
    assert add_left_out(None, "error", {"_record": next_one})["left_out"] == 7
    assert not bounded.filter(record("grpc"))
