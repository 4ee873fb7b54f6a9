"""The first lines of the script dougctl: what it consists of takes a moment to load, in which Ctrl-C may come already.

A package of its own, since the modules of ``dougdb`` are what takes the time.

Invariant: Ctrl-C ends the loading without a word, and the process as one that was interrupted (130 in a shell).
"""

from __future__ import annotations

import signal
import sys

INTERRUPTED = 130
"""The exit code of a program that was interrupted, as in ``dougdb.commands.common``."""


def main() -> None:
    """Loads dougctl, and runs it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from dougdb.cli import main as run  # noqa: PLC0415

    try:
        signal.signal(signal.SIGINT, before)
        run()
    except KeyboardInterrupt:  # Before a command has begun, or after it has ended.
        sys.exit(INTERRUPTED)
