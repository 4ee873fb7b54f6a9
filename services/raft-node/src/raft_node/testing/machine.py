"""The state machine of the simulated shard: a few keys, and a hash chained over everything applied.

Its state is kept at random moments, each time together with its applied index, like the tables of the real one; a
restart goes back to the last of them and the log brings it up again.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from raft_node.entry import Entry, EntryKind


class MachineState(NamedTuple):
    """What survives a crash: the data together with the index that it includes."""

    applied_index: int = 0
    digest: bytes = b""
    data: tuple[tuple[str, str], ...] = ()


def encode_put(key: str, value: str) -> bytes:
    """The command that writes one key."""
    return f"{key} {value}".encode()


class KeyValueMachine:
    """Applies entries in order."""

    def __init__(self, state: MachineState) -> None:
        self.applied_index = state.applied_index
        self.digest = state.digest
        self.data = dict(state.data)

    def apply(self, entry: Entry) -> None:
        """Applies the next entry."""
        assert entry.index == self.applied_index + 1, f"applied {self.applied_index}, then {entry.index}"
        self.applied_index = entry.index
        self.digest = blake2b(self.digest + entry.data, digest_size=8).digest()
        if entry.kind == EntryKind.COMMAND:
            key, value = entry.command.decode().split(" ", 1)
            self.data[key] = value

    def state(self) -> MachineState:
        """A snapshot to keep."""
        return MachineState(self.applied_index, self.digest, tuple(self.data.items()))
