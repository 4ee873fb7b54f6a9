"""Ranges of keys: iterators that go on where a stream broke off, pages, counts, deletions."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from dougdb import ranges
from dougdb.aio.operators import AsyncOperators
from dougdb.aio.runtime import Stream
from dougdb.checks import Bytes, key_bytes
from dougdb.errors import DougdbError
from dougdb.patience import Attempts
from dougdb.ranges import STEP_LIMIT, Deletion, End, Entry, Page, Range, broken_off, entry_of_line
from dougdb.shapes import Consistency


class AsyncRanges(AsyncOperators):
    """The calls that concern more than one key."""

    async def scan(
        self,
        *,
        prefix: str | Bytes | None = None,
        start: str | Bytes | None = None,
        end: str | Bytes | None = None,
        limit: int | None = None,
        keys_only: bool = False,
        reverse: bool = False,
        consistency: Consistency | str | None = None,
    ) -> Stream[Entry]:
        """Reads keys in the order of their bytes, over all shards, as many as there are.

        It is one stream with bounded memory, not a consistent picture of the store: each shard is read at one point of
        its log, at a later one where the stream had to be begun again behind the last key. Every key that is there all
        along comes exactly once. To leave the loop early, use ``contextlib.aclosing``.

        Args:
            prefix: The prefix of the keys; or else:
            start: The first key of the range; None for no bound.
            end: The first key behind the range; None for no bound.
            limit: The most entries; None for all.
            keys_only: Whether values are left out: ``data`` is empty then.
            reverse: Whether to go from the last key to the first.
            consistency: The consistency of the read; None for linearizable.

        Raises:
            UnavailableError: A shard could not be reached for longer than the deadline.
        """
        wanted = Range.of(prefix, start, end, reverse=reverse)
        left = limit
        attempts = Attempts(repeatable=True, deadline_s=self._deadline_s, now_s=self._pace.now())
        while not wanted.is_empty and left != 0:
            call = ranges.lines(wanted, limit=left, keys_only=keys_only, consistency=consistency)
            try:
                async with self._stream(call) as pieces, contextlib.aclosing(lines_of(pieces)) as lines:
                    token, complete = self.session_token, None
                    async for line in lines:
                        found = entry_of_line(line)
                        if isinstance(found, End):
                            complete = found.complete
                            self._saw_more(token, found.session)
                            break
                        wanted = wanted.behind(found.key)
                        left = None if left is None else left - 1
                        yield found
                        # The time that the caller takes is no silence of the store.
                        attempts.progress(self._pace.now())
                if complete:
                    return
                if complete is None:
                    raise broken_off()
            except DougdbError as error:
                await self._pace.sleep(attempts.pause_after(error, self._pace.now()))

    async def keys(
        self,
        *,
        prefix: str | Bytes | None = None,
        start: str | Bytes | None = None,
        end: str | Bytes | None = None,
        limit: int | None = None,
        reverse: bool = False,
        consistency: Consistency | str | None = None,
    ) -> Stream[bytes]:
        """The keys of a range; see ``scan``."""
        found = self.scan(
            prefix=prefix,
            start=start,
            end=end,
            limit=limit,
            keys_only=True,
            reverse=reverse,
            consistency=consistency,
        )
        async with contextlib.aclosing(found):
            async for entry in found:
                yield entry.key

    async def pages(
        self,
        *,
        prefix: str | Bytes | None = None,
        start: str | Bytes | None = None,
        end: str | Bytes | None = None,
        delimiter: str | None = None,
        limit: int | None = None,
        keys_only: bool = False,
        reverse: bool = False,
        cursor: str | None = None,
        consistency: Consistency | str | None = None,
    ) -> Stream[Page]:
        """Reads a range page by page; each page is one point in the log of each shard.

        Args:
            prefix: The prefix of the keys; or else:
            start: The first key of the range; None for no bound.
            end: The first key behind the range; None for no bound.
            delimiter: Keys that are alike up to it, behind the prefix, are told once, in ``prefixes``.
            limit: The most entries and common prefixes of a page; None for the facade's limit.
            keys_only: Whether values are left out.
            reverse: Whether to go from the last key to the first.
            cursor: The ``next_cursor`` of an earlier page, behind which to go on; None for the beginning.
            consistency: The consistency of the read; None for linearizable.
        """
        wanted = Range.of(prefix, start, end, reverse=reverse)
        raw = key_bytes(prefix) if prefix else None
        while True:
            page = await self._call(
                ranges.page(
                    wanted,
                    prefix=raw,
                    delimiter=delimiter,
                    limit=limit,
                    keys_only=keys_only,
                    cursor=cursor,
                    consistency=consistency,
                )
            )
            yield page
            cursor = page.next_cursor
            if cursor is None:
                return

    async def count(
        self,
        *,
        prefix: str | Bytes | None = None,
        start: str | Bytes | None = None,
        end: str | Bytes | None = None,
        consistency: Consistency | str | None = None,
    ) -> int:
        """Counts the keys of a range."""
        return await self._call(ranges.count(Range.of(prefix, start, end), consistency=consistency))

    async def delete_range(
        self,
        *,
        prefix: str | Bytes | None = None,
        start: str | Bytes | None = None,
        end: str | Bytes | None = None,
        everything: bool = False,
        limit: int | None = None,
        dry_run: bool = False,
    ) -> Deletion:
        """Removes the keys of a range, in steps; it is no transaction.

        Args:
            prefix: The prefix of the keys; or else:
            start: The first key of the range; None for no bound.
            end: The first key behind the range; None for no bound.
            everything: Whether every key is meant: needed for a range without any bound.
            limit: The most keys to remove; None for all.
            dry_run: Whether the keys are only counted.

        Raises:
            ValueError: The range has no bound, and ``everything`` was not given.
            UnavailableError: A shard could not be reached for longer than the deadline; some keys may have gone.
        """
        wanted = Range.of(prefix, start, end)
        keys, cursor = 0, None
        while limit is None or keys < limit:
            step = STEP_LIMIT if limit is None else min(STEP_LIMIT, limit - keys)
            found, cursor = await self._call(
                ranges.deletion(wanted, everything=everything, limit=step, dry_run=dry_run, cursor=cursor)
            )
            keys += found
            if cursor is None:
                break
        return Deletion(keys, cursor is None, dry_run)


async def lines_of(pieces: AsyncIterator[bytes]) -> Stream[bytes]:
    """Lines as they are complete. An end of a line is a line feed alone: JSON may have other ones within strings."""
    rest = bytearray()
    async for piece in pieces:
        if b"\n" not in piece:
            rest += piece  # A long line in small pieces is not copied with each of them.
            continue
        *lines, last = b"".join((rest, piece)).split(b"\n")
        rest = bytearray(last)
        for line in lines:
            if line.strip():
                yield line
