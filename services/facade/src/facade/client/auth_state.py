"""The document of users and rights, which shard 0 holds: a copy that is kept up to date, and the way to change it.

Every facade asks shard 0's leader again and again. Whoever sees a new document gives it to the other shards too, so
that their nodes judge by themselves. Must not know HTTP, nor what the document allows.

Invariants:
    1. A change is made from what shard 0 holds and counts only if that is still held: none is lost.
    2. ``age_s`` says how old the copy may be; the copy itself stays, whatever becomes of shard 0.
    3. What somebody changes leaves room to note when each token was last used. What would not fit takes the place of
       tokens that have ended; those are never taken for other reasons.
    4. No other shard is told that its copy is the newest while that is of another history: a backup's cuts are of
       different moments, and shard 0 may have been recovered without its last changes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import grpc
import structlog

from doug.v1 import admin_pb2
from doug_wire.auth import document as documents
from doug_wire.auth.document import DOCUMENT_BYTES_MAX, EMPTY, Document, DocumentError
from facade.client.directory import Directory
from facade.client.node import Node
from facade.client.operators.leader_calls import Refusal, ask_leader, call_leader
from facade.client.shard import Shard
from facade.errors import BadRequestError, NotAppliedError, OutcomeUnknownError, ProblemError

CALL_S = 1.0
CHANGE_S = 5.0
CHANGE_TRIES = 10
USE_BYTES = 16
"""The bytes by which a token may grow when the time of its last use is noted."""
ENDED_MS = 300_000
"""How long ago, by this facade's clock, a token must have ended that makes room: clocks differ."""
COPY_EVERY = 10
"""The number of rounds after which the copies of the other shards are checked again: their leaders judge by them only
while they are told that there is nothing newer. A leader that is new is told in the next round."""
COPY_AGE_S = 5.0
"""How long ago shard 0 may have been heard at most by a facade that speaks to the other shards of the document."""

log = structlog.get_logger()


class AuthState:
    """This facade's copy of the document of users and rights, which shard 0 holds.

    Attributes:
        document: The newest document from shard 0; empty while there is none.
        revision: The revision of the document; 0 while there is none.
        on_change: Called when there is a new document.
    """

    def __init__(self, directory: Directory, poll_s: float, wall_clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._wall_clock = wall_clock
        self._poll_s = poll_s
        self._heard_s: float | None = None
        self._copied: dict[int, tuple[int, int, str]] = {}
        self._alike: set[int] = set()
        """The shards whose copies were seen to be of the history of shard 0."""
        self._looks = 0
        self._not_understood = 0
        self.document: Document = EMPTY
        self.revision = 0
        self.on_change: Callable[[], None] = lambda: None

    def age_s(self) -> float | None:
        """How many seconds ago shard 0 confirmed the document; None if it never did."""
        return None if self._heard_s is None else asyncio.get_running_loop().time() - self._heard_s

    async def run(self) -> None:
        """Keeps the copy up to date; ends only by cancellation.

        The copies of the other shards have a task of their own: a shard that hangs must not delay what shard 0 tells.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_copies())
            while True:
                await self.look()
                await asyncio.sleep(self._poll_s)

    async def _keep_copies(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            self._looks += 1
            if self._looks % COPY_EVERY == 0:
                self._copied.clear()
            await self.tell_copies()

    async def tell_copies(self) -> None:
        """Brings the other shards' copies up to date, if shard 0 was heard just now."""
        age_s = self.age_s()
        if age_s is not None and age_s <= COPY_AGE_S:
            await self._copy()

    async def look(self) -> None:
        """Asks shard 0 once, and takes over a new document."""
        shard = self._directory.shards.get(0)
        if shard is None:
            return
        asked_s, before = asyncio.get_running_loop().time(), self.revision
        answer = await call_leader(shard, lambda node: node.get_auth(self.revision, CALL_S))
        if answer is None or isinstance(answer, Refusal):
            return
        if self.revision != before:
            return  # A change of this facade came first; the answer is older than it.
        if answer.revision != self.revision and not self._take(answer.revision, answer.document):
            return
        self._heard_s = asked_s

    def _take(self, revision: int, data: bytes) -> bool:
        try:
            document = documents.decode(data) if revision else EMPTY
        except DocumentError as error:
            if revision != self._not_understood:
                log.error("auth.not_understood", reason=str(error), revision=revision)
            self._not_understood = revision
            return False
        if revision < self.revision:
            self._alike.clear()  # Shard 0 has lost changes, which the copies may have.
            self._copied.clear()
        self.document, self.revision = document, revision
        self.on_change()
        return True

    async def _copy(self) -> None:
        """Gives the other shards copies of the document of shard 0."""
        behind = [
            shard
            for number, shard in self._directory.shards.items()
            if number and self.revision and self._copied.get(number) != self._newest(shard)
        ]
        if behind:
            await asyncio.gather(*(self._copy_to(shard) for shard in behind))

    def _newest(self, shard: Shard) -> tuple[int, int, str]:
        """The document, and the leader that has to be told that there is no newer one."""
        return self.revision, shard.leader_term, "" if shard.leader is None else shard.leader.id

    async def _copy_to(self, shard: Shard) -> None:
        told = self._newest(shard)
        revision, document = self.revision, self.document
        if shard.id not in self._alike:
            held = await call_leader(shard, lambda node: node.get_auth(0, CALL_S))
            if held is None or isinstance(held, Refusal):
                return
            if held.revision > revision or (held.revision == revision and not _is(document, held.document)):
                log.warning("auth.copy_ahead", shard=shard.id, revision=held.revision, newest=revision)
                await self._set_once_more(revision, document)
                return
            self._alike.add(shard.id)
        held = await call_leader(shard, lambda node: node.get_auth(revision, CALL_S))
        if held is None or isinstance(held, Refusal):
            return
        if held.revision < revision:
            request = admin_pb2.SetAuthRequest(revision=revision, document=document.encode(), copy=True)
            given = await call_leader(shard, lambda node: node.set_auth(request, CALL_S))
            if given is None or (isinstance(given, Refusal) and given.code != "CHANGED"):
                return
        self._copied[shard.id] = told

    async def _set_once_more(self, revision: int, document: Document) -> None:
        """Gives the document of shard 0 the next number, so that it gets ahead of copies that know of another one."""
        shard = self._directory.shards[0]
        request = admin_pb2.SetAuthRequest(
            expected_revision=revision, revision=revision + 1, document=document.encode()
        )
        await call_leader(shard, lambda node: node.set_auth(request, CALL_S))

    # Changes.

    async def change(
        self,
        make: Callable[[Document], Document],
        *,
        to_the_brim: bool = False,
        dropped: Callable[[Sequence[str]], None] = lambda names: None,
    ) -> Document:
        """Changes the document of shard 0, and has every shard copy it; returns the new document.

        Args:
            make: Makes the new document of the present one; called again if another change came first.
            to_the_brim: Whether the room for the uses of tokens may be taken, too.
            dropped: Called with the names of tokens that had ended, once they have made room.

        Raises:
            DocumentError: The error that ``make`` raised.
            ProblemError: The document cannot be changed now, would be too large, or may or may not have been changed.
        """
        shard = self._directory.shards.get(0)
        if shard is None:
            raise NotAppliedError("starting", "It is not known where shard 0's nodes are.", shard=0)
        for _ in range(CHANGE_TRIES):
            held = await ask_leader(shard, _get_auth, CHANGE_S, _judge_read, _late, reads=True)
            before = _decoded(held)
            made = make(before)
            if made == before and held.revision:
                return made
            until_ms = 0 if to_the_brim else int(self._wall_clock() * 1000) - ENDED_MS
            made, data, ended = _fitting(made, len(held.document), until_ms)
            request = admin_pb2.SetAuthRequest(
                expected_revision=held.revision, revision=held.revision + 1, document=data
            )
            if await self._set(shard, request):
                if ended:
                    dropped(ended)
                # Otherwise a look came first, and another facade's change before it.
                if request.revision > self.revision:
                    self._take(request.revision, request.document)
                await self._copy()
                return made
        raise NotAppliedError("auth_changed", "Others change it again and again.", shard=0)

    @staticmethod
    async def _set(shard: Shard, request: admin_pb2.SetAuthRequest) -> bool:
        """Sets the document of a shard; returns False if it was changed meanwhile."""

        async def call(node: Node, left_s: float) -> bool:
            await node.set_auth(request, left_s)
            return True

        return await ask_leader(shard, call, CHANGE_S, _judge_change, _late)


def _get_auth(node: Node, left_s: float) -> Awaitable[admin_pb2.GetAuthResponse]:
    return node.get_auth(0, left_s)


def _is(document: Document, data: bytes) -> bool:
    """Whether these bytes are a document, whichever version has written them."""
    try:
        return documents.decode(data) == document
    except DocumentError:
        return False


def _decoded(held: admin_pb2.GetAuthResponse) -> Document:
    try:
        return documents.decode(held.document) if held.revision else EMPTY
    except DocumentError as error:
        detail = f"This facade does not understand what shard 0 holds: {error}."
        raise NotAppliedError("auth_not_understood", detail, shard=0) from None


class _Fitting(NamedTuple):
    """A document that there is room for, its bytes, and the names of the tokens that have made room for it."""

    document: Document
    data: bytes
    ended: Sequence[str] = ()


def _fitting(made: Document, bytes_before: int, until_ms: int) -> _Fitting:
    """Finds room for a document; if need be without the tokens that had ended by ``until_ms``, 0 for to the brim."""
    try:
        return _Fitting(made, _encoded(made, bytes_before, to_the_brim=not until_ms))
    except ProblemError:
        left = made.without_expired(until_ms)
        if left is made:
            raise
    data = _encoded(left, bytes_before, to_the_brim=False)
    return _Fitting(left, data, sorted(made.tokens.keys() - left.tokens.keys()))


def _encoded(made: Document, bytes_before: int, *, to_the_brim: bool) -> bytes:
    """The bytes of a document, if there is room for them; a change that makes it smaller is always taken."""
    try:
        data = made.encode()
    except DocumentError as error:
        raise _full(str(error)) from None
    spare = 0 if to_the_brim else USE_BYTES * len(made.tokens)
    if len(data) + spare > DOCUMENT_BYTES_MAX and len(data) >= bytes_before:
        raise _full(f"roles, users and tokens take more than {DOCUMENT_BYTES_MAX} bytes together, with their uses")
    return data


def _full(detail: str) -> ProblemError:
    return ProblemError("auth_full", f"There is no room for it: {detail}.", status=507, shard=0)


def _late() -> ProblemError:
    return NotAppliedError("no_leader", "Shard 0 has no leader that answers.", shard=0)


def _judge_read(refusal: Refusal) -> ProblemError | None:
    if refusal.code or refusal.status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return None
    return NotAppliedError("unavailable", f"Shard 0 did not tell who may do what: {refusal.detail}", shard=0)


def _judge_change(refusal: Refusal) -> ProblemError | bool | None:
    if refusal.code == "CHANGED":
        return False
    if refusal.code in ("NOT_LEADER", "UNAVAILABLE"):
        return None
    if refusal.code == "INVALID":
        return BadRequestError("bad_auth", refusal.detail, shard=0)
    return OutcomeUnknownError("outcome_unknown", "Nobody can tell whether it was changed; look at it.", shard=0)
