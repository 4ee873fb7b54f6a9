"""Handles standard output that cannot be written: a command ends with one line, and a local cluster goes on.

Must not know any command. A standard stream that was closed before the start is opened on the null device first:
otherwise the next file or connection would get its number, and printed lines would be written there.
"""

from __future__ import annotations

import errno
import io
import os
import sys


class OutputError(Exception):
    """Standard output cannot be written.

    It is no OSError on purpose, so that code that handles the failure of a file does not catch it.

    Attributes:
        number: The system's error number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


class _Output(io.RawIOBase):
    """A stream that writes to a file descriptor, and raises ``OutputError`` if that fails."""

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
    """Makes the standard streams safe to use. Must be called before any file is opened."""
    closed = [stream is None for stream in (sys.stdin, sys.stdout, sys.stderr)]
    for number, is_closed in enumerate(closed):
        if is_closed:
            # The system assigns the lowest free number, so the streams are opened in the order of their numbers.
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
    """Drops the buffered output, so that the end of the process does not try to write it again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - it lives as long as the process


class Speaker:
    """Writes lines to a terminal, a pipe or a file; a line that cannot be written is counted and stops nothing.

    Args:
        descriptor: The file descriptor to which lines are written.
        complaints: The file descriptor to which it is written, once, that lines are lost.
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
            # The reader has closed the pipe on purpose, so that a complaint would be useless.
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
