"""Puts and deletes with a condition and nothing else, carried out without decoding them.

Compare-and-set is what most conditions are for, so these are nearly as frequent as plain puts, and every replica
carries them out. What would take a dozen calls each in ``raft_node.kv.operations`` is one loop here. It takes only what
it sees through in full: a command with other options, a malformed one, one whose key was not fetched, or whose key
holds a value with an expiry or an encoding, is left to ``raft_node.kv.state_machine``.

Invariants:
1. What is carried out here has the outcome and the effects that ``raft_node.kv.operations.plain`` would have given it.
2. An entry that is left is untouched: nothing of it was done.
3. What is read in one call of ``apply`` is bounded in number and bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

from doug_wire import command as commands
from doug_wire.command import ConditionKind, Opcode
from doug_wire.pipe import Status
from doug_wire.slots import slot_of
from doug_wire.watch import ChangeKind
from raft_node.entry import HEADER_BYTES, Entry, EntryKind
from raft_node.kv.changes import Removal
from raft_node.kv.keyspace import USER_PREFIX, VALUE_FORMAT, VALUE_HEADER, VALUE_HEADER_BYTES
from raft_node.kv.operations.work import WRONG_SHARD, Outcome

STEPS_MAX = 2000
"""A call of ``apply`` ends behind the entry with so many reads and stores of values, about 50 ms, or so many bytes."""
BYTES_MAX = 4 << 20

_LAYOUT: struct.Struct = struct.Struct(commands.HEADER.format + commands.CONDITION.format.removeprefix("<"))
KEY_START = HEADER_BYTES + _LAYOUT.size
"""Where the key of such a command begins in its entry."""
# Plain numbers: a member of an enumeration takes twice as long to compare.
_COMMAND_KIND, _CONDITION = int(EntryKind.COMMAND), commands.FLAG_CONDITION
_PUT, _DELETE, _DELETED = int(Opcode.PUT), int(Opcode.DELETE), int(ChangeKind.DELETE)
_EXISTS, _ABSENT, _REVISION = int(ConditionKind.EXISTS), int(ConditionKind.ABSENT), int(ConditionKind.REVISION)


class Run:
    """One call of ``apply``: what its entries have done so far, and what conditions have looked at.

    Attributes:
        effects: The keys and values to be written.
        removals: The effects that remove users' values.
        outcomes: The outcomes of the entries.
        newest: The values that effects hold, by key, as far as conditions have looked at them; None for a removal.
        seen: How many of the effects are among these.
        steps: How many conditions were judged.
        bytes: How many bytes they have read and stored.
    """

    __slots__ = ("bytes", "effects", "newest", "outcomes", "removals", "seen", "steps")

    def __init__(
        self, effects: list[tuple[bytes, bytes | None]], removals: list[Removal], outcomes: list[Outcome]
    ) -> None:
        """Takes the lists that are added to."""
        self.effects, self.removals, self.outcomes = effects, removals, outcomes
        self.newest: dict[bytes, bytes | None] = {}
        self.seen = self.steps = self.bytes = 0


def carry_out(  # noqa: PLR0912, PLR0915 - one loop: five replicas do this for every such write
    entries: Iterable[Entry], run: Run, fetched: Mapping[bytes, bytes | None], epochs: Sequence[int], revision: int
) -> tuple[Entry | None, int]:
    """Carries entries out up to one that is not of this module, or cannot be carried out here.

    Args:
        entries: The entries.
        run: The call of ``apply``.
        fetched: The values that the store has under the keys that are read.
        epochs: By slot, the epoch at which the shard owns it; 0 for the others.
        revision: The last revision given out.

    Returns:
        The entry that was left, None if there is none, and the last revision given out.
    """
    # No look-up by name within, as in ``StateMachine._apply_plain``.
    unpack, unpack_value, pack, slot = _LAYOUT.unpack_from, VALUE_HEADER.unpack_from, VALUE_HEADER.pack, slot_of
    applied, effects, cls, ok, failed = run.outcomes.append, run.effects, Outcome, Status.OK, Status.PRECONDITION_FAILED
    newest, write, seen, steps, size = run.newest, effects.append, run.seen, run.steps, run.bytes
    prefix, header_bytes, start, new = USER_PREFIX, VALUE_HEADER_BYTES, KEY_START, tuple.__new__
    for entry in entries:
        _, _, kind, _, data = entry
        if kind != _COMMAND_KIND or len(data) < start or steps >= STEPS_MAX or size >= BYTES_MAX:
            break
        opcode, flags, key_bytes, type_bytes, value_bytes, epoch, wanted, number = unpack(data, HEADER_BYTES)
        key_end = start + key_bytes
        if flags != _CONDITION or not _PUT <= opcode <= _DELETE or key_end + type_bytes + value_bytes != len(data):
            break
        if wanted != _REVISION and (number or not _EXISTS <= wanted <= _ABSENT):
            break
        key = data[start:key_end]
        owned = epochs[slot(key)]
        if not owned or (epoch and epoch != owned):
            applied(WRONG_SHARD)
            continue
        key = prefix + key
        if seen < len(effects):
            newest.update(effects[seen:])
            seen = len(effects)
        # No value is as short as what stands for one that was not fetched.
        found = newest[key] if key in newest else fetched.get(key, b"")
        exists, current = False, 0
        if found is not None:
            if len(found) < header_bytes:
                break
            form, more, found_type_bytes, found_epoch, current = unpack_value(found)
            if more or form != VALUE_FORMAT or header_bytes + found_type_bytes > len(found):
                break
            exists = found_epoch == owned
            size += len(found)
        steps += 1
        holds = not exists if wanted == _ABSENT else exists and (wanted == _EXISTS or current == number)
        if not holds:
            applied(new(cls, (failed, current if exists else 0, None)))
            continue
        revision += 1
        if opcode == _PUT:
            size += value_bytes
            stored: bytes | None = pack(VALUE_FORMAT, 0, type_bytes, owned, revision) + data[key_end:]
        else:
            run.removals.append(Removal(len(effects), revision, _DELETED))
            stored = None
        write((key, stored))
        newest[key] = stored
        seen += 1
        applied(new(cls, (ok, revision, None)))
    else:
        entry = None
    run.seen, run.steps, run.bytes = seen, steps, size
    return entry, revision
