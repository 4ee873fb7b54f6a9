# Made by tools/blocking.py of aio/watches.py; change that, and run `make client`.
"""Watches: the changes of a key or a range, in an iterator that goes on where its stream broke off."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection

import httpx

from dougdb import calls, watches
from dougdb.blocking.ranges import Ranges, lines_of
from dougdb.blocking.runtime import Stream
from dougdb.checks import Bytes, key_text
from dougdb.errors import DougdbError, KeyNotFoundError, UnavailableError, WaitTimeoutError
from dougdb.patience import Attempts
from dougdb.ranges import broken_off
from dougdb.shapes import Value
from dougdb.watches import KINDS, NOW, PROGRESS, Change, change_of_line

SILENT_S = 15.0
"""How long a watch may be silent: a facade tells its progress every five seconds."""


PROGRESS_S = 5.0
"""The longest time between two lines of a stream on which all is well."""
SLACK_S = 0.5
"""By how much the end of a waiting may be late."""


class Watches(Ranges):
    """The calls that tell what changes."""

    def watch(
        self,
        *,
        key: str | Bytes | None = None,
        prefix: str | Bytes | None = None,
        start: str | Bytes | None = None,
        end: str | Bytes | None = None,
        begin: str = NOW,
        kinds: Collection[str] = KINDS,
        values: bool = True,
        progress: bool = False,
    ) -> Stream[Change]:
        """Tells every change of a key or a range as it happens; it ends when the caller leaves the loop.

        Per key every change comes exactly once and in the order of its revisions, also when facades are restarted
        meanwhile, as long as the nodes hold what follows. To leave the loop, use ``contextlib.closing``.

        Args:
            key: The key to watch; or else:
            prefix: The prefix of the keys; or else:
            start: The first key of the range; None for no bound.
            end: The first key behind the range; None for no bound. Without any of these all keys are watched.
            begin: ``now``; ``start`` for what is there first, as puts without an ``id``, and then every change since
                (what is there may come again when the connection breaks before all of it has come); or the ``id`` of a
                change, behind which it goes on.
            kinds: Some of ``put``, ``delete``, ``expire``.
            values: Whether puts have their value.
            progress: Whether to tell also that nothing has changed, every few seconds, as a ``Change`` of the kind
                ``progress``: its ``id`` is good to go on from.

        Raises:
            HistoryGoneError: The changes that follow are not held any more.
            UnavailableError: No message came for longer than the deadline.
        """
        attempts = Attempts(repeatable=True, deadline_s=self._deadline_s, now_s=self._pace.now())
        while True:
            call = watches.watch(key=key, prefix=prefix, start=start, end=end, begin=begin, kinds=kinds, values=values)
            try:
                with (
                    self._stream(call, self._watch_timeout()) as pieces,
                    contextlib.closing(lines_of(pieces)) as lines,
                ):
                    for line in lines:
                        change = change_of_line(line)
                        begin = change.id or begin
                        if progress or change.kind != PROGRESS:
                            yield change
                        # The time that the caller takes is no silence of the store.
                        attempts.progress(self._pace.now())
                # The facade stops, or drops a client that reads too slowly.
                raise broken_off()
            except DougdbError as error:
                self._pace.sleep(attempts.pause_after(error, self._pace.now()))

    def wait_for(
        self, key: str | Bytes, until: Callable[[Value | None], bool], *, timeout_s: float | None = None
    ) -> Value | None:
        """Waits until a key's value fulfils a condition, and returns the value.

        Args:
            key: The key.
            until: The condition: called with the present value, and again after every change; None is a missing key.
            timeout_s: How long to wait; None for as long as it takes.

        Raises:
            WaitTimeoutError: The condition was not fulfilled in time.
            UnavailableError: No message came for longer than the deadline.
        """
        ends_s = None if timeout_s is None else self._pace.now() + timeout_s
        changes = watches.watch(key=key, prefix=None, start=None, end=None, begin=NOW, kinds=KINDS, values=False)
        attempts = Attempts(repeatable=True, deadline_s=self._deadline_s, now_s=self._pace.now())
        while True:
            try:
                steps = self._watch_timeout(ends_s)
                with (
                    self._stream(changes, steps) as pieces,
                    contextlib.closing(lines_of(pieces)) as lines,
                ):
                    # The first line tells that the watch has begun; the caller then reads earlier writes.
                    for line in lines:
                        change_of_line(line)
                        value = self._value_or_none(key, ends_s)
                        if until(value):
                            return value
                        attempts.progress(self._pace.now())
                        if ends_s is not None and self._is_last(key, ends_s, steps.read or 0.0):
                            break
                    else:
                        raise broken_off()
            except WaitTimeoutError:
                raise
            except DougdbError as error:
                if ends_s is not None and self._pace.now() >= ends_s and isinstance(error, UnavailableError):
                    raise _late(key) from None
                self._pace.sleep(attempts.pause_after(error, self._pace.now()))

    def _is_last(self, key: str | Bytes, ends_s: float, read_s: float) -> bool:
        """Whether the waiting ends before the next line, but after the time for which this stream waits for one.

        Raises:
            WaitTimeoutError: It has ended.
        """
        left_s = ends_s - self._pace.now()
        if left_s <= 0.0:
            raise _late(key)
        return left_s < PROGRESS_S + SLACK_S and read_s > left_s + SLACK_S

    def _value_or_none(self, key: str | Bytes, ends_s: float | None) -> Value | None:
        deadline_s, timeout_s = None, None
        if ends_s is not None:
            left_s = max(0.0, ends_s - self._pace.now())
            deadline_s = min(self._deadline_s, left_s)
            timeout_s = min(self._http.timeout.read or left_s, max(1.0, left_s))
        with contextlib.suppress(KeyNotFoundError):
            return self._call(calls.get(key), deadline_s=deadline_s, timeout_s=timeout_s)
        return None

    def _watch_timeout(self, ends_s: float | None = None) -> httpx.Timeout:
        """The timeouts of a stream, which tells its progress every few seconds; at most the rest of the waiting."""
        steps = self._http.timeout
        read_s = SILENT_S if steps.read is None else max(steps.read, SILENT_S)
        if ends_s is None:
            return httpx.Timeout(connect=steps.connect, write=steps.write, pool=steps.pool, read=read_s)
        left_s = max(0.01, ends_s - self._pace.now())
        connect_s = left_s if steps.connect is None else min(steps.connect, left_s)
        return httpx.Timeout(connect=connect_s, write=steps.write, pool=steps.pool, read=min(read_s, left_s))


def _late(key: str | Bytes) -> WaitTimeoutError:
    return WaitTimeoutError(f"{key_text(key)} did not become what was waited for")
