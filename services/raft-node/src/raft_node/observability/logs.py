"""Structured log lines: one event a line, on standard error, as JSON in containers and coloured text on a console.

Every line carries ``node`` and ``shard``, and ``term`` once Raft runs; an event that speaks of another term says so
itself. As JSON, the lines of libraries and of an uncaught exception are objects too. Never a key, a value or a token.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import TracebackType

import structlog

from doug_wire.library_lines import BoundedLines, add_left_out

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_live: dict[str, Callable[[], object]] = {}
"""The fields whose values are read for every line, by name."""


def follow_term(read: Callable[[], int]) -> None:
    """Gives every line a field ``term`` from now on, with the value of ``read``, which is called on any thread."""
    _live["term"] = read


def configure(log_format: str, level: str, **bound: object) -> None:
    """Sets structlog up for this process.

    Args:
        log_format: ``console`` or ``json``.
        level: The least level that is shown.
        bound: Fields that every line carries, such as ``node``.
    """
    _live.clear()
    renderer: structlog.typing.Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        # Without the values of variables, which rich would show if it is installed: values are never logged.
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )

    def add_bound(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        # Not context variables: a callback from another thread would not see them.
        return {**bound, **{name: read() for name, read in _live.items()}, **event}

    shared: list[structlog.typing.Processor] = [
        add_bound,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # The libraries' own lines: warnings and worse, in the same form on the same standard error.
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(BoundedLines())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, add_left_out, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    if log_format == "json":
        sys.excepthook = _log_uncaught


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    get_logger().error("node.crashed", reason=repr(error), exc_info=(kind, error, trace))


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """The logger of this process."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger
