"""Logs: one event a line, for people (warnings and leader changes) or for machines (JSON).

Every line carries ``facade``, and what concerns a shard says ``shard`` and ``term`` itself. As JSON, the lines of
libraries and of an uncaught exception are objects too. Must not know who logs. Values and tokens are never logged.
"""

from __future__ import annotations

import logging
import sys
from types import TracebackType

import structlog
from structlog.typing import EventDict, WrappedLogger

from doug_wire.library_lines import BoundedLines, add_left_out

ALWAYS_SHOWN = frozenset({"shard.leader_changed"})


def _only_what_matters(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Drops all lines but warnings and leader changes, for a console."""
    if method in {"debug", "info"} and event.get("event") not in ALWAYS_SHOWN:
        raise structlog.DropEvent
    return event


def configure(log_format: str, log_level: str, facade_id: str) -> None:
    """Sets structlog and the logging of the libraries up, on stderr."""

    def add_bound(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        # Not context variables: a callback from another thread would not see them.
        return {"facade": facade_id, **event}

    shared: list[structlog.typing.Processor] = [
        add_bound,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor
    if log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
        own: list[structlog.typing.Processor] = [*shared, renderer]
        sys.excepthook = _log_uncaught
    else:
        # Without the values of variables, which rich would show if it is installed: a token may be among them.
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            pad_event_to=0,
            pad_level=False,
            exception_formatter=structlog.dev.plain_traceback,
        )
        own = [_only_what_matters, *shared, renderer]
    structlog.configure(
        processors=own,
        wrapper_class=structlog.make_filtering_bound_logger(log_level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(BoundedLines())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, add_left_out, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.ERROR, force=True)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    structlog.get_logger().error("facade.crashed", reason=repr(error), exc_info=(kind, error, trace))
