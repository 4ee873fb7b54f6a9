"""Who sends a request, and the check that every operation passes before it is sent anywhere.

``Router`` and ``Scans`` call ``check`` for every key and range that they are asked for, so that no route can forget to:
a route that says nothing acts for nobody, who may do nothing. What is allowed is decided by
``doug_wire.auth.grants.authorize`` alone.

Must not know HTTP, nor how somebody proves who they are (``facade.app.gate``). Invariants:

1. The rights of an ``Access`` are those that count now: what takes them away reaches requests that are under way.
2. A transaction or a batch is allowed only if each of its compares and operations is.

Source: docs/auth.md; reliability.md, part 5.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import NamedTuple

from doug_wire import command as commands
from doug_wire.auth.grants import ALL, NOTHING, KeyRange, Rights, Target, Verb, authorize
from doug_wire.command import Opcode
from doug_wire.payload import decode_batch, decode_txn
from facade.errors import ForbiddenError, ProblemError, UnauthenticatedError

Wanted = tuple[Verb, Target]


IDENTITY_BYTES_MAX = 200
"""Beside the longest idempotency key there is room for so much (``doug_wire.command.TOKEN_BYTES_MAX``)."""


def _hashed(name: str) -> str:
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


class Access:
    """Somebody, and what they may do. It changes in place, so that whatever they have under way follows.

    Attributes:
        identity: The owner of the idempotency keys; empty while all clients share them.
        name: Who: ``token:app``, ``cert:NAME``, ``oidc:SUBJECT``, ``bootstrap``; empty for anyone.
        rights: What they may do now.
        ended: Whether they have to prove anew who they are.
        used: Whether they have sent something since somebody looked.
    """

    __slots__ = ("__weakref__", "_followers", "ended", "identity", "name", "rights", "used")

    def __init__(self, name: str, rights: Rights) -> None:
        self.name = name
        self.identity = name if len(name) <= IDENTITY_BYTES_MAX and name.isascii() else _hashed(name)
        self.rights = rights
        self.ended = False
        self.used = False
        self._followers: set[Callable[[], None]] = set()

    def give(self, rights: Rights) -> None:
        """From now on these are the rights."""
        if rights.grants != self.rights.grants:
            self.rights = rights
            for changed in tuple(self._followers):
                changed()

    def end(self) -> None:
        """From now on nothing is allowed."""
        self.ended = True
        self.give(NOTHING)

    @contextlib.contextmanager
    def followed(self, changed: Callable[[], None]) -> Iterator[None]:
        """Meanwhile something is called when the rights change: for what goes on without asking, as a watch does."""
        self._followers.add(changed)
        try:
            yield
        finally:
            self._followers.discard(changed)


class Caller(NamedTuple):
    """Who sends a request, and which one it is.

    Attributes:
        access: Who they are.
        request_id: The request's id.
        address: The client's address.
        method: Its method.
        route: The template of its route.
        audit: Is told of what is refused.
    """

    access: Access
    request_id: str = ""
    address: str = ""
    method: str = ""
    route: str = ""
    audit: Callable[[Caller, Verb, Target], None] | None = None

    @property
    def identity(self) -> str:
        """The owner of the idempotency keys; empty while all clients share them."""
        return self.access.identity


LOOKING = (Verb.METRICS, Verb.MEMBERS)
"""The rights one of which is needed to see how the cluster is."""

ANYONE = Caller(Access("", ALL))
"""Whoever comes, while nobody has to say who they are."""
NOBODY = Caller(Access("", NOTHING))
"""Who acts where nobody was told: a request that was let in without being looked at."""

current: ContextVar[Caller] = ContextVar("caller", default=NOBODY)
"""Who sends the request that is being served."""

sender: ContextVar[str] = ContextVar("sender", default="")
"""Whose share of the facade the request takes that is being served: a principal's, or an address's."""

peer: ContextVar[str] = ContextVar("peer", default="")
"""The address from which it came."""


def check(caller: Caller, verb: Verb, target: Target = None) -> None:
    """Refuses what somebody may not do.

    Raises:
        UnauthenticatedError: They have to prove anew who they are.
        ForbiddenError: They may not.
    """
    if not authorize(caller.access.rights, verb, target):
        raise refusal(caller, verb, target)


def allowed(caller: Caller, verb: Verb, target: Target = None) -> bool:
    """Whether somebody may do something now; nobody is told of it."""
    return authorize(caller.access.rights, verb, target)


_LEAST_FIRST = (Verb.METRICS, Verb.READ, Verb.WATCH, Verb.WRITE, Verb.BACKUP, Verb.MEMBERS, Verb.AUTH)
"""Of several rights that would do, the one to ask for is the one that gives away least."""


def check_any(caller: Caller, verbs: Iterable[Verb], target: Target = None) -> None:
    """Refuses what somebody may do by none of some verbs; raises what ``check`` does."""
    wanted = sorted(verbs, key=_LEAST_FIRST.index)
    if not any(authorize(caller.access.rights, verb, target) for verb in wanted):
        raise refusal(caller, wanted[0], target, wanted[1:])


def refusal(caller: Caller, verb: Verb, target: Target, others: Sequence[Verb] = ()) -> ProblemError:
    """Why somebody may not do something; the audit log is told. One of ``others`` would do as well."""
    if caller.audit is not None:
        caller.audit(caller, verb, target)
    if caller.access.ended:
        return UnauthenticatedError("What it was sent with counts no more.")
    who = caller.access.name or "Nobody in particular"
    what = "" if target is None else " of these keys" if isinstance(target, KeyRange) else " of this key"
    right = " or ".join(each.value for each in (verb, *others))
    return ForbiddenError(f"{who} does not have the right {right}{what}.", verb.value)


def verb_of(opcode: int) -> Verb:
    """What an operation on one key does to it."""
    return Verb.READ if opcode == Opcode.GET else Verb.WRITE


_MANY = (Opcode.TXN, Opcode.BATCH)
"""Commands that consist of operations."""


def check_write(caller: Caller, opcode: int, key: bytes, value: bytes) -> None:
    """Refuses a command of which somebody may not do every part; raises what ``check`` does.

    Args:
        caller: Who.
        opcode: What it does.
        key: Its key; of a transaction or a batch one of its keys.
        value: Its value, or what the opcode has in its place.
    """
    if opcode not in _MANY:  # As nearly all of them are: what follows would cost several calls more.
        verb = Verb.READ if opcode == Opcode.GET else Verb.WRITE
        if not authorize(caller.access.rights, verb, key):
            raise refusal(caller, verb, key)
        return
    for verb, target in _parts(opcode, key, value):
        if not authorize(caller.access.rights, verb, target):
            raise refusal(caller, verb, target)


def _parts(opcode: int, key: bytes, value: bytes) -> Iterator[Wanted]:
    if opcode == Opcode.TXN:
        txn = decode_txn(value)
        for compare in txn.compares:
            yield Verb.READ, compare.key
        for operation in (*txn.success, *txn.failure):
            yield _within(operation)
    elif opcode == Opcode.BATCH:
        for operation in decode_batch(value):
            yield _within(operation)


def _within(operation: bytes) -> Wanted:
    command = commands.decode(operation)
    return verb_of(command.opcode), command.key


def range_of(start: bytes, end: bytes | None) -> KeyRange:
    """A range as ``authorize`` wants it: no end is an empty one, and an end before every key ends at the start."""
    return KeyRange(start, b"" if end is None else end or start)
