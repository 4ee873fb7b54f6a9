"""A call from one part of the node to others that are built later.

Some parts need one another: the log tells the driver what is durable, and the driver writes to the log. The first of
them is given a ``Wire``, and the wire is led to the second one once that exists. All wires of a node are led in one
place (``raft_node.app.parts``), so that who tells whom can be read there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, ParamSpec

Arguments = ParamSpec("Arguments")


class Wire(Generic[Arguments]):
    """A call whose receivers are named later. Requires: ``lead_to`` names them before the first call."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends: tuple[Callable[Arguments, None], ...] = ()

    def lead_to(self, *ends: Callable[Arguments, None]) -> None:
        """Names the functions that a call reaches from now on, in this order."""
        assert not self._ends, "a wire is led once"
        self._ends = ends

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        """Calls all functions that ``lead_to`` has named."""
        assert self._ends, "the wire leads nowhere yet"
        for end in self._ends:
            end(*args, **kwargs)
