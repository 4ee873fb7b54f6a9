"""A bounded number of open files, shared by tables that may be many more.

A reader takes a file out, so that nobody closes it meanwhile, and gives it back; the one that was not used for the
longest time is closed first. It may be used on any thread, without a lock: each step is one operation on the ordered
dict, which the interpreter does not interrupt. This module knows no formats.

Invariants:
1. At most ``open_max`` files are open that nobody reads from, plus one for each reader, plus those that are pinned.
2. A pinned file can be read on after its name was removed; it is pinned before that.
"""

from __future__ import annotations

from collections import OrderedDict

from raft_node.errors import CorruptionError
from raft_node.storage.files import FileSystem, ReadableFile


class OpenFiles:
    """The open files by path; the one that was used last is the last one.

    Attributes:
        opens: How often a file had to be opened for a read.
    """

    def __init__(self, fs: FileSystem, open_max: int) -> None:
        assert open_max > 0
        self.opens = 0
        self._fs = fs
        self._open_max = open_max
        self._files: OrderedDict[str, ReadableFile] = OrderedDict()

    def __len__(self) -> int:
        return len(self._files)

    def take(self, path: str) -> ReadableFile:
        """The open file, for the caller alone until it is given back. Blocking.

        Raises:
            FileNotFoundError: There is no such file.
        """
        file = self._files.pop(path, None)
        if file is None:
            self.opens += 1
            return self._fs.open_for_read(path)
        return file

    def give(self, file: ReadableFile) -> None:
        """Gives a file back, or adds one."""
        if self._files.setdefault(file.path, file) is not file:
            # Two readers had opened it.
            file.close()
        while len(self._files) > self._open_max:
            try:
                _, oldest = self._files.popitem(last=False)
            except KeyError:
                # Other threads have removed the rest meanwhile.
                return
            oldest.close()

    def forget(self, path: str) -> None:
        """Closes a file that no caller has taken."""
        file = self._files.pop(path, None)
        if file is not None:
            file.close()


class SharedFile:
    """A file that is open now and then, or pinned.

    Attributes:
        path: The path of the file.
        size: The size of the file.
    """

    __slots__ = ("_closed", "_files", "_pinned", "path", "size")

    def __init__(self, file: ReadableFile, files: OpenFiles | None) -> None:
        """Takes an open file over.

        Args:
            file: The file; it is pinned at first.
            files: The open files among which it is kept after ``share``; None leaves it pinned for good.
        """
        self.path = file.path
        self.size = file.size
        self._files = files
        self._pinned: ReadableFile | None = file
        self._closed = False

    def read_at(self, offset: int, size: int) -> bytes:
        """See ``ReadableFile``. Blocking.

        Raises:
            CorruptionError: The file is not there any more.
        """
        pinned = self._pinned
        if pinned is not None:
            return pinned.read_at(offset, size)
        assert self._files is not None
        try:
            file = self._files.take(self.path)
        except FileNotFoundError as error:
            # The file may have been pinned and then removed at this very moment.
            pinned = self._pinned
            if pinned is None:
                raise CorruptionError(self.path, 0, "the table is missing") from error
            return pinned.read_at(offset, size)
        try:
            return file.read_at(offset, size)
        finally:
            if self._pinned is None and not self._closed:
                self._files.give(file)
            else:
                file.close()

    def share(self) -> None:
        """Lets the file be closed while nobody reads it."""
        if self._files is not None and self._pinned is not None:
            pinned, self._pinned = self._pinned, None
            self._files.give(pinned)

    def pin(self) -> None:
        """Keeps the file open from now on, so that its name can be removed. Blocking.

        Raises:
            CorruptionError: The file is not there any more.
        """
        if self._pinned is None:
            assert self._files is not None
            try:
                self._pinned = self._files.take(self.path)
            except FileNotFoundError as error:
                raise CorruptionError(self.path, 0, "the table is missing") from error
            # Another reader may just have returned a file.
            self._files.forget(self.path)

    def close(self) -> None:
        """Closes the file for good. Requires: no reader uses it any more."""
        self._closed = True
        if self._pinned is not None:
            self._pinned.close()
        if self._files is not None:
            self._files.forget(self.path)
