"""Runs a command in the terminal's foreground, alone, so that Ctrl-C reaches it and not the make that started it.

make ends with an error if it is interrupted itself, even if its child ended well. In a terminal the command therefore
gets a process group of its own, which becomes the foreground group; afterwards the terminal is handed back. Without a
terminal the command simply replaces this process.

Usage: python tools/foreground.py COMMAND [ARGUMENT]...
"""

from __future__ import annotations

import os
import signal
import sys


def _owns_terminal() -> bool:
    try:
        return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _run_in_foreground(command: list[str]) -> int:
    # A background process that touches the terminal's settings would be stopped; this one must be able to take it back.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpgrp())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execvp(command[0], command)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, frame: os.kill(child, received))
    while True:
        _, status = os.waitpid(child, os.WUNTRACED)
        os.tcsetpgrp(0, os.getpgrp())
        if not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status)
        # Ctrl-Z: the whole job of the shell stops, and goes on with `fg`.
        os.kill(0, signal.SIGSTOP)
        os.tcsetpgrp(0, os.getpgid(child))
        os.killpg(child, signal.SIGCONT)


def main() -> int:
    """Runs the command line."""
    command = sys.argv[1:]
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    if not _owns_terminal():
        os.execvp(command[0], command)
    code = _run_in_foreground(command)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
