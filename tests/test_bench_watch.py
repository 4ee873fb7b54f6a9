"""What ``make bench-watch`` calls beyond its limits, and what it counts as read."""

from __future__ import annotations

from typing import Any

from bench.watch import Watcher, Watchers, beyond

GOOD: dict[str, Any] = {"events": {"1000": {"median_s": 0.2, "max_s": 0.9}}, "mb_at_10000": 250.0}


def test_what_is_within_the_limits_is_no_complaint() -> None:
    assert beyond(GOOD, 1000) == []


def test_each_limit_is_named() -> None:
    assert len(beyond({**GOOD, "mb_at_10000": 301.0}, 1000)) == 1
    assert len(beyond({**GOOD, "events": {"1000": {"median_s": 0.2, "max_s": 1.1}}}, 1000)) == 1


def test_events_are_counted_once_wherever_the_bytes_are_cut() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n" + b"retry: 1000\n\nevent: progress\nid: w1\ndata: {}\n\n"
    event = b"event: put\nid: w2\ndata: {}\n\n"
    told = head + event + b"event: progress\nid: w2\ndata: {}\n\n" + event
    for cut in range(1, len(told)):
        watchers = Watchers("localhost", 1)
        watcher = Watcher(watchers)
        watcher.data_received(told[:cut])
        watcher.data_received(told[cut:])
        assert (watchers.begun, watchers.told, watchers.lost) == (1, 2, 0), cut


def test_a_watch_that_is_refused_ends_the_measurement() -> None:
    watchers = Watchers("localhost", 1)
    Watcher(watchers).data_received(b"HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\n\r\n{}")
    assert watchers.lost == 1
