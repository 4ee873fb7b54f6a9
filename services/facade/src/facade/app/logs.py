"""Logs: one event a line, for people (warnings and leader changes) or for machines (JSON).

Must not know who logs. Values and tokens are never logged.
"""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

ALWAYS_SHOWN = frozenset({"shard.leader_changed"})


def _only_what_matters(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """On a console, only warnings and leader changes."""
    if method in {"debug", "info"} and event.get("event") not in ALWAYS_SHOWN:
        raise structlog.DropEvent
    return event


def configure(log_format: str, log_level: str, facade_id: str) -> None:
    """Sets structlog and the logging of the libraries up, on stderr."""
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if log_format == "json":
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, pad_level=False)
        processors = [_only_what_matters, *processors, console]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(log_level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(facade=facade_id)
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
