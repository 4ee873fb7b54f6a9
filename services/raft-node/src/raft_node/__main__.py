"""``python -m raft_node``: starts one node with the settings of the environment.

Exit codes: 0 stopped in order; 1 a defect of the program; 2 wrong settings or a port that is taken; 3 the node refuses
to run or to go on (damaged files, a failing disk, an identity that does not fit): starting it again does not help.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from functools import partial
from typing import Any

import uvloop

from doug_wire import cores, native
from raft_node import __version__
from raft_node.app.node import Node
from raft_node.commands import inspect, recover_quorum, restore
from raft_node.errors import FatalError, SettingsError
from raft_node.observability import logs, tracing
from raft_node.observability.tracing import NodeTraces
from raft_node.runtime.disk.volume_lock import locked
from raft_node.runtime.faults import Faults
from raft_node.settings import NodeSettings, load
from raft_node.storage.files import OsFileSystem

EXIT_DEFECT = 1
EXIT_SETTINGS = 2
EXIT_REFUSED = 3

_SWITCH_INTERVAL_S = 0.0005


def _watch_stdin(loop: asyncio.AbstractEventLoop, node: Node, faults: Faults | None) -> None:
    """Stops the node when standard input ends. A thread, because reading a pipe may block for ever."""

    def wait() -> None:
        # The loop may have ended by itself meanwhile.
        with contextlib.suppress(RuntimeError):
            while told := os.read(0, 4096):
                if faults is not None:
                    loop.call_soon_threadsafe(faults.hear, told)
            loop.call_soon_threadsafe(node.stop)

    threading.Thread(target=wait, name="stdin-watch", daemon=True).start()


def _crash(node: Node, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A callback failed: what ends the node, or a defect, after which nothing of this process can be trusted."""
    exception = context.get("exception")
    if isinstance(exception, FatalError):
        node.fail(exception)
        return
    if "handle" not in context or exception is None:
        loop.default_exception_handler(context)
        return
    logs.get_logger().error("node.crashed", reason=repr(exception), exc_info=exception)
    sys.stderr.flush()
    os._exit(EXIT_DEFECT)


def _crash_thread(node: Node, loop: asyncio.AbstractEventLoop, arguments: threading.ExceptHookArgs) -> None:
    """A thread failed with what it does not expect: a defect as well, and often of the one that writes the log."""
    if isinstance(arguments.exc_value, FatalError):
        loop.call_soon_threadsafe(node.fail, arguments.exc_value)
        return
    logs.get_logger().error("node.crashed", reason=repr(arguments.exc_value), exc_info=arguments.exc_value)
    sys.stderr.flush()
    os._exit(EXIT_DEFECT)


async def _run(settings: NodeSettings, traces: NodeTraces | None) -> None:
    loop = asyncio.get_running_loop()
    faults = Faults() if settings.dev_faults else None
    node = Node(settings, OsFileSystem(None if faults is None else faults.before_sync), traces, faults)
    loop.set_exception_handler(partial(_crash, node))
    threading.excepthook = partial(_crash_thread, node, loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stop)
    if settings.stop_on_stdin_eof:
        _watch_stdin(loop, node, faults)
    # Everything imported lives as long as the process; looking through it again and again would stall the loop.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 1_000_000)
    await node.run()


def main() -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="raft-node", description="One replica of a DougDB shard. Settings are environment variables DOUGDB_*."
    )
    parser.add_argument("--version", action="version", version=f"raft-node {__version__}{native.said()}")
    commands = parser.add_subparsers(title="on the files of a node", metavar="COMMAND")
    recovering = commands.add_parser(
        recover_quorum.NAME, help=recover_quorum.SUMMARY, description=recover_quorum.SUMMARY
    )
    recover_quorum.add_arguments(recovering)
    recovering.set_defaults(run=recover_quorum.run)
    restore.add_to(commands)
    inspect.add_to(commands)
    arguments = parser.parse_args()
    if not __debug__:
        print("raft-node: do not run this with -O: its assertions guard the data", file=sys.stderr)
        return EXIT_SETTINGS
    cores.disable()
    if "run" in arguments:
        exit_code: int = arguments.run(arguments)
        return exit_code
    try:
        settings = load()
        traces = tracing.load(settings)
    except SettingsError as error:
        print(f"raft-node: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    logs.configure(settings.log_format, settings.log_level, node=settings.node_id, shard=settings.shard_id)
    # A thread that returns from fsync must not wait 5 ms for the interpreter.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    fs = OsFileSystem()
    try:
        for directory in (settings.wal_dir, settings.data_dir):
            fs.make_directory(directory)
        with (
            contextlib.nullcontext() if traces is None else contextlib.closing(traces),
            locked(settings.wal_dir, settings.data_dir),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(_run(settings, traces))
    except SettingsError as error:
        logs.get_logger().error("node.refused", reason=str(error))
        return EXIT_SETTINGS
    except FatalError as error:
        logs.get_logger().error("node.refused", reason=str(error))
        return EXIT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
