"""Fetches the values that the commands of committed entries read, before the commands are carried out.

Applying waits for no disk: what is not in memory is asked for in ``needed``, and loaded off the event loop. And it
takes bounded memory: a few bytes in the log may read a mebibyte each. It knows which keys commands name, and nothing
else of them. What had to be decoded to find that out is kept until it is carried out, so that it is decoded once.

Invariants:
1. ``values`` holds what the store holds. Whoever writes to the store has it forgotten.
2. ``needed`` is empty unless nothing can be applied without it.
3. What is fetched has no effect on what commands do: ``Work.read`` raises for what was not, and is asked again.
4. ``command`` gives what ``decode`` gives, whatever is kept: a kept command counts for the very bytes that it was
   decoded from. What is kept is bounded in bytes, and forgotten with the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

from doug_wire import command as commands
from doug_wire.command import Command, CommandError, Opcode
from raft_node.entry import HEADER_BYTES, Entry, EntryKind
from raft_node.errors import CorruptionError
from raft_node.kv import conditional
from raft_node.kv.keyspace import USER_PREFIX
from raft_node.kv.operations import table
from raft_node.kv.operations.work import READ_BYTES_MAX

if TYPE_CHECKING:
    from raft_node.storage.tables.reads import BlockNeeded

ENTRIES_MAX = 256
"""The number of entries that are looked at together."""
_STEP_KEYS = 32
_NEEDED_MAX = 64
"""The number of blocks that are loaded at a time, each perhaps for a value of a mebibyte."""

KEPT_BYTES_MAX = 4 << 20
"""The bytes of the entries whose commands are kept: more than the entries at hand have, but for a huge one."""

_COMMAND_START = HEADER_BYTES + commands.HEADER.size
_COMMAND_KIND = int(EntryKind.COMMAND)
_DELETE, _CONDITION = int(Opcode.DELETE), commands.FLAG_CONDITION
_IN_MEMORY = frozenset({bytes, type(None)})
_MANY = (Opcode.TXN, Opcode.BATCH, Opcode.EXPIRE)


class Readable(Protocol):
    """The store that holds the values."""

    def multi_get(self, keys: Sequence[bytes]) -> Sequence[bytes | BlockNeeded | None]:
        """Reads keys from memory; for a key on disk returns the block that must be loaded."""


class Fetching:
    """Fetches the values that commands read from one store.

    Attributes:
        values: The fetched values by key.
        needed: The blocks to be loaded before an entry can be applied.
    """

    def __init__(self, store: Readable) -> None:
        """Begins without values."""
        self.values: dict[bytes, bytes | None] = {}
        self.needed: list[BlockNeeded] = []
        self._store = store
        self._commands: dict[int, tuple[bytes, Command]] = {}
        self._kept_bytes = 0

    def forget(self) -> None:
        """Forgets all values, since the store is about to be written to, and all commands."""
        self.values = {}
        if self._commands:
            self._commands = {}
            self._kept_bytes = 0

    def command(self, entry: Entry) -> Command:
        """The command of an entry, which may have been decoded before.

        Raises:
            CorruptionError: The command is malformed.
        """
        kept = self._commands.get(entry.index)
        if kept is not None and kept[0] is entry.data:
            return kept[1]
        command = decode(entry)
        self._kept_bytes += len(entry.data)
        if self._kept_bytes <= KEPT_BYTES_MAX:
            self._commands[entry.index] = entry.data, command
        return command

    def loaded(self, found: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Takes the keys and values of all blocks that were needed."""
        self.values.update(found)
        self.needed = []

    def fetch(self, entries: Sequence[Entry], *, ask: bool) -> int:
        """Fetches the values that entries read; returns how many entries, from the first on, can be carried out.

        Args:
            entries: The entries.
            ask: Whether the blocks that the very first entry needs are put into ``needed``.
        """
        entries = entries[:ENTRIES_MAX]
        if self._take(self._all_keys_to_read(entries)):
            return len(entries)
        size = ready = 0
        needed: list[BlockNeeded] = []
        for entry in entries:
            size += self._take_some(entry, self._keys_to_read(entry), needed)
            if not needed:
                ready += 1
            elif ready or len(needed) >= _NEEDED_MAX:
                break
            if size > READ_BYTES_MAX:
                break
        if not ready and ask:
            self.needed = needed
        return ready

    def _all_keys_to_read(self, entries: Sequence[Entry]) -> list[bytes]:
        """The keys that the commands of entries read, in order and perhaps several times."""
        found: list[bytes] = []
        unpack, prefix, start = commands.HEADER.unpack_from, USER_PREFIX, conditional.KEY_START
        for entry in entries:
            _, _, kind, _, data = entry
            if kind != _COMMAND_KIND or len(data) < _COMMAND_START:
                continue
            opcode, flags, key_bytes, _, _, _ = unpack(data, HEADER_BYTES)
            if opcode > _DELETE or flags > _CONDITION:
                found += self._keys_to_read(entry)
            elif flags:
                # A malformed one names any key here, and is refused when it is applied.
                found.append(prefix + data[start : start + key_bytes])
        return found

    def _keys_to_read(self, entry: Entry) -> list[bytes]:
        """The keys that the command of an entry reads, in order and perhaps several times.

        Raises:
            CorruptionError: The command is malformed.
        """
        data = entry.data
        if entry.kind != _COMMAND_KIND or len(data) < _COMMAND_START:
            return []
        if not data[HEADER_BYTES + 1] and data[HEADER_BYTES] <= _DELETE:
            return []
        command = self.command(entry)
        if not table.is_known(command.opcode):
            return []
        try:
            return table.keys_to_read(command)
        except CommandError as error:
            raise unknown(entry, str(error)) from error

    def fetch_key(self, key: bytes, *, ask: bool) -> bool:
        """Fetches a key that was left out; False if it must be loaded, which is asked for if ``ask``."""
        (value,) = self._store.multi_get([key])
        if value is None or isinstance(value, bytes):
            self.values[key] = value
            return True
        if ask:
            self.needed = [value]
        return False

    def _take(self, keys: Sequence[bytes]) -> bool:
        """Takes keys if all are in memory and not large; otherwise none."""
        values = self.values
        missing = [key for key in keys if key not in values] if values else keys
        found = self._store.multi_get(missing)
        # No loop in Python: five replicas do this for every write with a condition.
        if not _IN_MEMORY.issuperset(map(type, found)):
            return False
        taken = cast("dict[bytes, bytes | None]", dict(zip(missing, found, strict=True)))
        if sum(map(len, filter(None, taken.values()))) > READ_BYTES_MAX:
            return False
        values.update(taken)
        return True

    def _take_some(self, entry: Entry, keys: Sequence[bytes], needed: list[BlockNeeded]) -> int:
        """Takes the values that one entry reads, but no more than it may read; returns their bytes."""
        if not keys:
            return 0  # The bytes may be no command at all.
        values = self.values
        size = sum(len(held) for key in set(keys) if (held := values.get(key)) is not None)
        missing = list(dict.fromkeys(key for key in keys if key not in values))
        bounded = entry.data[HEADER_BYTES] in _MANY
        for start in range(0, len(missing), _STEP_KEYS):
            if bounded and size > READ_BYTES_MAX:
                break
            step = missing[start : start + _STEP_KEYS]
            for key, value in zip(step, self._store.multi_get(step), strict=True):
                if value is None:
                    values[key] = None
                elif isinstance(value, bytes):
                    values[key] = value
                    size += len(value)
                else:
                    needed.append(value)
            if len(needed) >= _NEEDED_MAX:
                break
        return size


def decode(entry: Entry) -> Command:
    """The command of an entry.

    Raises:
        CorruptionError: The command is malformed.
    """
    try:
        return commands.decode(entry.data, HEADER_BYTES)
    except CommandError as error:
        raise unknown(entry, str(error)) from error


def unknown(entry: Entry, what: str) -> CorruptionError:
    """The error for an entry with a content that this version does not know."""
    return CorruptionError("log", entry.index, f"entry {entry.index} holds {what}")
