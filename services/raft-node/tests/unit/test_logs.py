"""Log lines as JSON: every one is an object with node, shard and term, those of libraries and crashes included."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from doug_wire.library_lines import LINES_BURST
from raft_node.observability import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    hook, handlers, level = sys.excepthook, logging.root.handlers[:], logging.root.level
    yield
    sys.excepthook = hook
    logging.root.handlers[:], logging.root.level = handlers, level
    structlog.reset_defaults()
    logs._live.clear()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_every_line_says_node_shard_and_term(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info", node="shard-1-0", shard=1)
    logger = structlog.get_logger()
    logger.info("before")
    term = 3
    logs.follow_term(lambda: term)
    logger.info("one")
    term = 4
    logger.info("two", role="leader")
    logger.info("of_another_term", term=2)
    logger.debug("hidden")
    before, one, two, other = lines(capsys)
    assert (before["node"], before["shard"], "term" in before) == ("shard-1-0", 1, False)
    assert (one["event"], one["level"], one["term"]) == ("one", "info", 3)
    assert (two["term"], two["role"], other["term"]) == (4, "leader", 2)
    assert two["timestamp"].endswith("Z")


def test_lines_of_libraries_have_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info", node="n", shard=0)
    logging.getLogger("library").warning("port %d", 7)
    logging.getLogger("library").info("not shown")
    (line,) = lines(capsys)
    assert (line["event"], line["logger"], line["node"], line["level"]) == ("port 7", "library", "n", "warning")


def test_what_libraries_write_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """gRPC has a traceback for each call whose message is none, before anybody has asked who calls."""
    logs.configure("json", "info", node="n", shard=0)
    for _ in range(3 * LINES_BURST):
        logging.getLogger("grpc").error("not a message")
    logging.getLogger("other").error("heard")
    told = lines(capsys)
    assert [line["logger"] for line in told] == ["grpc"] * LINES_BURST + ["other"]


def test_an_uncaught_exception_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info", node="n", shard=0)
    try:
        raise ValueError("broken")
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    (line,) = lines(capsys)
    assert (line["event"], line["node"]) == ("node.crashed", "n")
    assert "Traceback" in line["exception"]
    assert "broken" in line["exception"]


def test_a_console_gets_text(capsys: pytest.CaptureFixture[str]) -> None:
    hook = sys.excepthook
    logs.configure("console", "warning", node="n", shard=0)
    structlog.get_logger().warning("happened", index=5)
    logging.getLogger("grpc").warning("of a library")
    shown = capsys.readouterr().err
    assert "happened" in shown
    assert "index=5" in shown
    assert "of a library" in shown
    assert sys.excepthook is hook
