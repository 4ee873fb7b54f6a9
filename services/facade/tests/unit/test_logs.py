"""The facade's log lines as JSON, its own and those of libraries."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from doug_wire.library_lines import LINES_BURST
from facade.app import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    hook, handlers, level = sys.excepthook, logging.root.handlers[:], logging.root.level
    yield
    sys.excepthook = hook
    logging.root.handlers[:], logging.root.level = handlers, level
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)
    structlog.reset_defaults()


def test_every_line_is_an_object_that_names_the_facade(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info", "facade-1")
    structlog.get_logger().info("shard.leader_changed", shard=1, leader="shard-1-2", term=7)
    logging.getLogger("uvicorn.error").error("of a library")
    try:
        raise ValueError("broken")
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    changed, library, crashed = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (changed["facade"], changed["shard"], changed["term"]) == ("facade-1", 1, 7)
    assert (library["facade"], library["event"], library["level"]) == ("facade-1", "of a library", "error")
    assert (crashed["event"], "broken" in crashed["exception"]) == ("facade.crashed", True)


def test_what_libraries_write_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info", "facade-1")
    for _ in range(2 * LINES_BURST):
        logging.getLogger("uvicorn.error").error("of a library")
    assert len(capsys.readouterr().err.splitlines()) == LINES_BURST


def test_a_console_shows_no_values_of_variables(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("console", "info", "facade")
    secret = "token-" + "s" * 20
    try:
        raise ValueError(f"broken for {len(secret)}")
    except ValueError:
        structlog.get_logger().exception("facade.failed")
    shown = capsys.readouterr().err
    assert "broken for 26" in shown and secret not in shown


def test_a_console_shows_only_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("console", "info", "facade")
    structlog.get_logger().info("something.else")
    structlog.get_logger().info("shard.leader_changed", shard=0, leader="a", term=1)
    structlog.get_logger().warning("map.malformed")
    shown = capsys.readouterr().err
    assert "something.else" not in shown
    assert "shard.leader_changed" in shown
    assert "map.malformed" in shown
