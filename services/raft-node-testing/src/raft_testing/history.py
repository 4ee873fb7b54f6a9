"""The requests of clients and their answers: the input of the linearizability test.

Simulated clients, the integration tests and the benchmarks all record these. This module judges nothing; see
``raft_testing.linearizability``.

Invariants:
1. Times of all operations of a history come from one monotonic clock; the unit is the caller's.
2. ``call`` is taken before the request leaves and ``returned`` after its answer arrived.
3. No two puts of a history to one key have the same value, and no put writes ``None``.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["put", "get"]


@dataclass(slots=True)
class Operation:
    """One request of a client and its outcome.

    Attributes:
        key: The key of the request.
        kind: Whether it wrote or read.
        value: The value that a put wrote or a get read; None for a get of a missing key.
        call: When it was sent.
        returned: When its answer came; None while the outcome is unknown (it may still take effect at any later time).
        ok: False if it was certainly not applied; such an operation must not have any effect.
        client: The number of the client, for messages.
    """

    key: Hashable
    kind: Kind
    value: Hashable
    call: float
    returned: float | None
    ok: bool = True
    client: int = 0

    def __str__(self) -> str:
        """One line for a report."""
        end = "?" if self.returned is None else f"{self.returned:g}"
        outcome = "" if self.ok else " refused"
        return f"client {self.client} {self.kind} {self.key!r} {self.value!r} [{self.call:g}, {end}]{outcome}"


class History:
    """The operations of one run, in the order of their calls."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def begin(self, client: int, kind: Kind, key: Hashable, value: Hashable, now: float) -> Operation:
        """Records that an operation was sent; until it is finished, its outcome is unknown."""
        operation = Operation(key, kind, value, now, None, True, client)
        self.operations.append(operation)
        return operation

    @staticmethod
    def succeed(operation: Operation, now: float, value: Hashable | None = None) -> None:
        """Records the answer; for a get with the value."""
        operation.returned = now
        if operation.kind == "get":
            operation.value = value

    @staticmethod
    def refuse(operation: Operation, now: float) -> None:
        """Records that it was certainly not applied."""
        operation.returned = now
        operation.ok = False

    @property
    def unknown(self) -> int:
        """How many operations have no answer."""
        return sum(operation.returned is None for operation in self.operations)
