"""The end of the facade by a defect: the process ends at once and says why, and its supervisor starts it again.

A callback or a thread that failed has left something undone, and nobody knows what: a facade that went on would answer
some requests and never answer others. What a client sends cannot bring this about: requests have their own error path
(``facade.app.application``), and so have the connections of uvicorn.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

EXIT_DEFECT = 1

log = structlog.get_logger()


def install(loop: asyncio.AbstractEventLoop, end: Callable[[int], object] = os._exit) -> None:
    """Has a failed callback of the loop, or a failed thread, end the process from now on.

    Args:
        loop: The event loop.
        end: Ends the process with an exit code.
    """
    loop.set_exception_handler(partial(_failed, end))
    threading.excepthook = partial(_thread_failed, end)


def _failed(end: Callable[[int], object], loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    exception = context.get("exception")
    # Without a handle it is a broken connection, or a task whose result was not read: it is only logged.
    if "handle" not in context or exception is None:
        loop.default_exception_handler(context)
        return
    _crash(end, exception)


def _thread_failed(end: Callable[[int], object], arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None:
        _crash(end, arguments.exc_value)


def _crash(end: Callable[[int], object], error: BaseException) -> None:
    log.error("facade.crashed", reason=repr(error), exc_info=error)
    sys.stdout.flush()
    sys.stderr.flush()
    end(EXIT_DEFECT)
