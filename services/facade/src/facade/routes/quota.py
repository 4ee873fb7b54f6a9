"""What a request with many operations counts for, where the settings bound the rates of clients.

Every request was counted once before it came to its route. Must not know who counts, or by whom.
"""

from __future__ import annotations


class Quota:
    """Counts the operations of the request that is being served; this one counts nothing."""

    def charge(self, operations: int) -> None:
        """Counts further operations of a request that was let in: what comes next may have to wait for it."""

    def take(self, operations: int) -> None:
        """Counts operations that have come since.

        Raises:
            TooManyRequestsError: The sender or its address has used up its share; none of them is counted.
        """
