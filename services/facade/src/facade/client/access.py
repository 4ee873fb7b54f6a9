"""The sender of a request with its rights, and the check that every operation passes before it is sent anywhere.

``Router`` and ``Scans`` call ``check`` for every key and range that they are asked for, so that no route can forget to:
a route that says nothing acts for nobody, who may do nothing. What is allowed is decided by
``doug_wire.auth.grants.authorize`` alone.

Must not know HTTP, nor how somebody proves who they are (``facade.app.gate``). Invariants:

1. The rights of an ``Access`` are those that count now: what takes them away reaches requests that are under way.
2. A transaction or a batch is allowed only if each of its compares and operations is.

Source: docs/auth.md, Grants and roles.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from itertools import repeat
from typing import NamedTuple

from doug_wire import command as commands
from doug_wire.auth.grants import ALL, NOTHING, KeyRange, Rights, Target, Verb, authorize
from doug_wire.command import Opcode
from doug_wire.idempotency import identity_of
from doug_wire.payload import decode_batch, decode_txn
from doug_wire.puts import decode_puts
from facade.errors import ForbiddenError, ProblemError, UnauthenticatedError

Wanted = tuple[Verb, Target]


class Access:
    """A principal and its present rights. It changes in place, so that requests that are under way follow.

    Attributes:
        identity: The owner of the principal's idempotency keys; empty while all clients share their keys.
        name: The principal's name: ``token:app``, ``cert:NAME``, ``oidc:SUBJECT``, ``bootstrap``; empty for anyone.
        rights: What the principal may do now.
        ended: Whether the proof has ended, so that the principal has to sign in anew.
        used: Whether the principal has sent a request since this was last read and cleared.
    """

    __slots__ = ("__weakref__", "_followers", "ended", "identity", "name", "rights", "used")

    def __init__(self, name: str, rights: Rights) -> None:
        self.name = name
        self.identity = identity_of(name)
        self.rights = rights
        self.ended = False
        self.used = False
        self._followers: set[Callable[[], None]] = set()

    def give(self, rights: Rights) -> None:
        """Gives the principal these rights, from now on."""
        if rights.grants != self.rights.grants:
            self.rights = rights
            for changed in tuple(self._followers):
                changed()

    def end(self) -> None:
        """Takes all rights from the principal, from now on."""
        self.ended = True
        self.give(NOTHING)

    @contextlib.contextmanager
    def followed(self, changed: Callable[[], None]) -> Iterator[None]:
        """Calls ``changed`` whenever the rights change within the block: a watch goes on without asking for them."""
        self._followers.add(changed)
        try:
            yield
        finally:
            self._followers.discard(changed)


class Caller(NamedTuple):
    """The sender of a request, and the request itself as far as the audit log names it.

    Attributes:
        access: The sender and its rights.
        request_id: The request's id.
        address: The client's address.
        method: The request's method.
        route: The template of the request's route.
        audit: The audit log, which is told of every refusal.
        path: The request's path.
    """

    access: Access
    request_id: str = ""
    address: str = ""
    method: str = ""
    route: str = ""
    audit: Callable[[Caller, Verb, Target], None] | None = None
    path: str = ""

    @property
    def identity(self) -> str:
        """The owner of the idempotency keys; empty while all clients share them."""
        return self.access.identity


LOOKING = (Verb.METRICS, Verb.MEMBERS)
"""The rights one of which is needed to see how the cluster is."""

ANYONE = Caller(Access("", ALL))
"""The sender of every request while clients need not say who they are."""
NOBODY = Caller(Access("", NOTHING))
"""The sender of a request that no gate has looked at: it has no rights at all."""

current: ContextVar[Caller] = ContextVar("caller", default=NOBODY)
"""The sender of the request that is being served."""

sender: ContextVar[str] = ContextVar("sender", default="")
"""The principal or address whose share of the facade the request takes that is being served."""

peer: ContextVar[str] = ContextVar("peer", default="")
"""The address from which the request came that is being served."""


def check(caller: Caller, verb: Verb, target: Target = None) -> None:
    """Refuses an action that the caller may not do.

    Raises:
        UnauthenticatedError: The caller has to prove anew who it is.
        ForbiddenError: The caller has not the right.
    """
    if not authorize(caller.access.rights, verb, target):
        raise refusal(caller, verb, target)


def allowed(caller: Caller, verb: Verb, target: Target = None) -> bool:
    """Whether the caller may do something now; the audit log is not told of the question."""
    return authorize(caller.access.rights, verb, target)


_LEAST_FIRST = (Verb.METRICS, Verb.READ, Verb.WATCH, Verb.WRITE, Verb.BACKUP, Verb.MEMBERS, Verb.AUTH)
"""All verbs, the one that gives away least first: a refusal names the first of those that would do."""


def check_any(caller: Caller, verbs: Iterable[Verb], target: Target = None) -> None:
    """Refuses an action unless the caller has the right to one of these verbs; raises what ``check`` does."""
    wanted = sorted(verbs, key=_LEAST_FIRST.index)
    if not any(authorize(caller.access.rights, verb, target) for verb in wanted):
        raise refusal(caller, wanted[0], target, wanted[1:])


def refusal(caller: Caller, verb: Verb, target: Target, others: Sequence[Verb] = ()) -> ProblemError:
    """The error for a caller that may not do something; tells the audit log. One of ``others`` would do as well."""
    if caller.audit is not None:
        caller.audit(caller, verb, target)
    if caller.access.ended:
        return UnauthenticatedError("What it was sent with counts no more.")
    who = caller.access.name or "Nobody in particular"
    what = "" if target is None else " of these keys" if isinstance(target, KeyRange) else " of this key"
    right = " or ".join(each.value for each in (verb, *others))
    return ForbiddenError(f"{who} does not have the right {right}{what}.", verb.value)


def verb_of(opcode: int) -> Verb:
    """The right that an operation on one key needs."""
    return Verb.READ if opcode == Opcode.GET else Verb.WRITE


_MANY = (Opcode.TXN, Opcode.BATCH)
"""Commands that consist of operations."""


def check_write(caller: Caller, opcode: int, key: bytes, value: bytes) -> None:
    """Refuses a command unless the caller may do every part of it; raises what ``check`` does.

    Args:
        caller: The sender of the command.
        opcode: The command's opcode.
        key: The command's key; of a transaction or a batch one of its keys.
        value: The command's value, or what the opcode has in its place.
    """
    if opcode not in _MANY:  # Nearly all commands: the rest of this function would cost several calls more.
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
        puts = decode_puts(value)
        if puts is not None:
            yield from zip(repeat(Verb.WRITE), puts.keys)
            return
        for operation in decode_batch(value):
            yield _within(operation)


def _within(operation: bytes) -> Wanted:
    command = commands.decode(operation)
    return verb_of(command.opcode), command.key


def range_of(start: bytes, end: bytes | None) -> KeyRange:
    """A range as ``authorize`` wants it: no end is an empty one, and an end before every key ends at the start."""
    return KeyRange(start, b"" if end is None else end or start)
