"""How requests of calls are read from gRPC's own server: few at a time, so that slow ones take a node no memory.

gRPC reads a message into memory as soon as somebody waits for it, whoever sends it and however slowly; a connection has
hundreds of calls, and a message eight mebibytes. So nobody waits for a message before it has a place here. Until then
gRPC takes what its window holds, 16 KiB, in which nearly all requests fit. Invariants:

1. So many requests are read at a time and no more, and so many of one caller; the others wait for their turn.
2. A request has so much time to come, and then its place is another one's.
3. Facades and members wait for nobody.

Must not know what requests say. Source: docs/operations.md, Limits of clients.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import grpc
import grpc.aio

from doug_wire.networks import host_of, network_of
from raft_node.rpc.raft.certificate_names import names_of

PLACES = 24
"""How many requests are read at a time: 192 MiB, if each is as large as it may be."""
OF_ONE = 8
"""How many of one caller."""
READ_S = 20.0
"""How long a request may take to come once it is its turn."""

Context = grpc.aio.ServicerContext[Any, Any]


class Requests:
    """Reads the requests of calls that have one each.

    Attributes:
        caller_of: Gives the address of a caller.
        taken: How many requests are being read.
    """

    def __init__(self, trusted: Collection[str] = (), places: int = PLACES, of_one: int = OF_ONE) -> None:
        """Begins with none.

        Args:
            trusted: The names in certificates by which facades and members are told.
            places: How many requests are read at a time.
            of_one: How many of one caller.
        """
        self._trusted = frozenset(name.lower() for name in trusted)
        self._places, self._of_one = places, of_one
        self._reading: dict[str, int] = {}
        """By caller, how many of its requests are being read."""
        self._waiting: dict[str, OrderedDict[asyncio.Future[None], None]] = {}
        """By caller, in the order of their turns. Whoever goes away is found at once, however many wait."""
        self.caller_of: Callable[[Any], str] = lambda context: str(context.peer())
        self.taken = 0

    async def read(self, context: Context) -> Any:
        """The request of a call; aborts the call if it does not come."""
        if not self._trusted.isdisjoint(names_of(context) or ()):
            return await self._one(context)
        async with self._place(self.caller(context)):
            return await self._one(context)

    def caller(self, context: Context) -> str:
        """Whose a call is, for limits: a certificate's owner's, wherever it comes from, or else an address's."""
        names = names_of(context) or ()
        common = [bytes(value).decode(errors="replace") for value in context.auth_context().get("x509_common_name", ())]
        return "\n".join([*sorted(names), *common]) or network_of(host_of(self.caller_of(context)))

    async def _one(self, context: Context) -> Any:
        try:
            async with asyncio.timeout(READ_S):
                found: Any = await context.read()
        except TimeoutError:
            await _abort(context, grpc.StatusCode.DEADLINE_EXCEEDED, f"the request did not come within {READ_S:g} s")
        if found is grpc.aio.EOF:
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, "a call without a request")
        return found

    @asynccontextmanager
    async def _place(self, caller: str) -> AsyncIterator[None]:
        """Holds a place, once there is one."""
        if not self._may_have(caller):
            await self._wait(caller)
        else:
            self._take(caller)
        try:
            yield
        finally:
            self._give_back(caller)

    async def _wait(self, caller: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, OrderedDict())[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(caller, turn)
            else:
                self._give_back(caller)
            raise

    def _leave(self, caller: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(caller)
        if queue is not None and turn in queue:
            del queue[turn]
            if not queue:
                del self._waiting[caller]

    def _may_have(self, caller: str) -> bool:
        return self.taken < self._places and self._reading.get(caller, 0) < self._of_one

    def _take(self, caller: str) -> None:
        self.taken += 1
        self._reading[caller] = self._reading.get(caller, 0) + 1

    def _give_back(self, caller: str) -> None:
        self.taken -= 1
        self._reading[caller] -= 1
        if not self._reading[caller]:
            del self._reading[caller]
        # One place has become free, so one request gets it: of the caller whose turn it is among those who may.
        for each, queue in list(self._waiting.items()):
            while queue and next(iter(queue)).done():
                queue.popitem(last=False)  # It was cancelled, and has not come to leave yet.
            if queue and not self._may_have(each):
                continue
            del self._waiting[each]
            if queue:
                self._take(each)
                queue.popitem(last=False)[0].set_result(None)
                if queue:
                    self._waiting[each] = queue  # Behind the others.
                return


async def _abort(context: Context, status: grpc.StatusCode, detail: str) -> NoReturn:
    await context.abort(status, f"INVALID: {detail}", (("doug-code", "INVALID"),))
