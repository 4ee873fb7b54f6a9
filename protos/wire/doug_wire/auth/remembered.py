"""What was proved once, kept while there is room for it: so many proofs, of so many bytes together.

To check a proof costs a look-up and a hash, or a signature; who is remembered is found by a look into a dict. When
there is no room for one more, all are forgotten, and each sender proves once more who it is. Must not know what a proof
is, or when it ends.

Invariants:
1. There are never more proofs than there may be, nor more bytes, but for one alone.
2. Each counts once, however often it is shown, and one that was dropped not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Proved = TypeVar("Proved")


class Remembered(Generic[Proved]):
    """What proofs have proved.

    Attributes:
        found: By the hash of a proof, what it has proved. To be read, and changed by nobody else.
    """

    def __init__(self, items_max: int, bytes_max: int) -> None:
        """Remembers nothing yet.

        Args:
            items_max: How many proofs are remembered.
            bytes_max: How many bytes they may have together.
        """
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._sizes: dict[bytes, int] = {}
        self._bytes = 0
        self.found: dict[bytes, Proved] = {}

    def keep(self, proof: bytes, proved: Proved, size: int) -> None:
        """Remembers what a proof of so many bytes has proved, also one that was remembered before."""
        self.drop(proof)
        if len(self.found) >= self._items_max or self._bytes + size > self._bytes_max:
            self.found.clear()
            self._sizes.clear()
            self._bytes = 0
        self.found[proof] = proved
        self._sizes[proof] = size
        self._bytes += size

    def drop(self, proof: bytes) -> None:
        """Forgets a proof, if it is remembered."""
        if self.found.pop(proof, None) is not None:
            self._bytes -= self._sizes.pop(proof)

    def drop_those(self, are_over: Callable[[Proved], bool]) -> None:
        """Forgets all proofs of which this is true."""
        for proof in [proof for proof, proved in self.found.items() if are_over(proved)]:
            self.drop(proof)
