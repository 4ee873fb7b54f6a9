"""Standard output that cannot be written to ends a command with one line, not with a traceback, and no cluster.

It must not know any command. A stream that was closed before the start is opened on the null device first: else the
next file or connection would get its number, and what is printed would be written there.
"""

from __future__ import annotations

import errno
import io
import os
import sys


class OutputError(Exception):
    """Standard output cannot be written to.

    It is no OSError on purpose: whoever handles the failure of a file must not take this one for it.

    Attributes:
        number: The system's error number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


class _Output(io.RawIOBase):
    """A file descriptor to write to whose failures are ``OutputError``."""

    def __init__(self, descriptor: int, broken: int = 0) -> None:
        self._descriptor = descriptor
        self._broken = broken

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return not self._broken and os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        if self._broken:
            raise OutputError(self._broken)
        try:
            return os.write(self._descriptor, data)
        except OSError as error:
            assert error.errno is not None
            raise OutputError(error.errno) from None


def secure() -> None:
    """Makes the standard streams safe to use. Call it first of all."""
    closed = [stream is None for stream in (sys.stdin, sys.stdout, sys.stderr)]
    for number, is_closed in enumerate(closed):
        if is_closed:
            # The system gives out the lowest free number, so the streams are checked in their order.
            opened = os.open(os.devnull, os.O_RDWR)
            assert opened == number
    if closed[0]:
        sys.stdin = open(0)  # noqa: SIM115 - it lives as long as the process
    encoding = "utf-8" if closed[1] else sys.stdout.encoding
    raw = _Output(1, errno.EBADF if closed[1] else 0)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=raw.isatty()
    )


def abandon() -> None:
    """Lets go what is buffered, so that the end of the process does not try to write it once more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - it lives as long as the process


class Speaker:
    """Says lines on a terminal, a pipe or a file that may be full or gone: what cannot be said is no reason to stop.

    Args:
        descriptor: Where lines go.
        complaints: Where it is said, once, that lines are lost.
    """

    def __init__(self, descriptor: int = 1, complaints: int = 2) -> None:
        self._descriptor = descriptor
        self._complaints = complaints
        self._lost = 0
        self._told = False

    def __call__(self, line: str) -> None:
        """Writes one line at once."""
        again = f"({self._lost} lines before this one could not be written)\n" if self._lost else ""
        try:
            _write_all(self._descriptor, f"{again}{line}\n")
            self._lost = 0
        except OSError as error:
            self._lost += 1
            # The reader of a pipe has seen enough and wants no complaint.
            if not self._told and error.errno != errno.EPIPE:
                self._complain(error)
            self._told = True

    def _complain(self, error: OSError) -> None:
        try:
            _write_all(
                self._complaints, f"dougctl: the output cannot be written ({error.strerror}); going on without\n"
            )
        except OSError:
            # The complaint cannot be printed either.
            return


def _write_all(descriptor: int, text: str) -> None:
    data = text.encode(errors="backslashreplace")
    while data:
        data = data[os.write(descriptor, data) :]
