"""What a call asks to do, as the verbs and keys by which a client that calls a node itself is judged. Pure functions.

It must not know who calls. Invariants:

1. A method that is not here, and an operation of a kind that is not known, asks for what nobody has.
2. Every key of a transaction or a batch is named, whatever becomes of its operation. One with more parts than it may
   have is refused as a whole by whoever reads it: what lies beyond is not looked at here, so that a message of millions
   of parts takes neither time nor memory.

Source: docs/auth.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

from doug.v1 import doug_pb2 as pb
from doug_wire.auth.grants import KeyRange, Rights, Target, Verb, authorize
from doug_wire.payload import BATCH_OPERATIONS_MAX, TXN_OPERATIONS_MAX

DOUG, ADMIN = "doug.v1.Doug", "doug.v1.Admin"

RULES: dict[str, dict[str, set[Verb]]] = {
    DOUG: {
        "Get": {Verb.READ},
        "Put": {Verb.WRITE},
        "Delete": {Verb.WRITE},
        "Increment": {Verb.WRITE},
        "Touch": {Verb.WRITE},
        "Txn": {Verb.READ, Verb.WRITE},
        "ExecuteBatch": {Verb.READ, Verb.WRITE},
        "FindOutcome": {Verb.READ, Verb.WRITE},
        "DeleteRange": {Verb.READ, Verb.WRITE},
        "Pipe": {Verb.READ, Verb.WRITE},
        "Partitions": set(),
        "Scan": {Verb.READ},
        "Watch": {Verb.WATCH},
    },
    ADMIN: {
        "Status": {Verb.METRICS, Verb.MEMBERS},
        "Events": {Verb.METRICS, Verb.MEMBERS},
        "TransferLeadership": {Verb.MEMBERS},
        "Drain": {Verb.MEMBERS},
        "Members": {Verb.METRICS, Verb.MEMBERS},
        "AddMember": {Verb.MEMBERS},
        "RemoveMember": {Verb.MEMBERS},
        "ReplaceMember": {Verb.MEMBERS},
        "Backup": {Verb.BACKUP},
        "GetAuth": {Verb.AUTH},
        "SetAuth": {Verb.AUTH},
    },
}
"""The rights, some of which a facade asks for before it calls a method for a client, and a node before it serves the
client itself; none for what tells nothing of keys or nodes. A method that is not here is served to nobody."""

OURS_ALONE = frozenset({(DOUG, "Pipe"), (ADMIN, "GetAuth"), (ADMIN, "SetAuth")})
"""The methods that only facades and nodes may call: packed records that a facade has judged, and the document by which
everybody is judged, of which facades show clients no hash and let them make no part that makes no sense."""

IN_PARTS = frozenset({(DOUG, "ExecuteBatch")})
"""The methods whose parts have nothing to do with each other: those that are allowed are carried out, and the others
refused in the answer."""

SCANNING = frozenset({(DOUG, "Scan"), (DOUG, "DeleteRange"), (ADMIN, "Backup")})
"""The methods that read or delete a whole range, or send the whole state."""

WATCHING = (DOUG, "Watch")
"""The method that lasts for as long as its caller likes."""

LASTING = SCANNING | {WATCHING, (DOUG, "ExecuteBatch")}
"""The methods that may take so long that rights are asked for again meanwhile."""

_EVERY_KEY = KeyRange(b"")


class Wanted(NamedTuple):
    """One part of what a call asks to do.

    Attributes:
        verbs: The verbs, one of which is enough; without any nobody may do it.
        target: The object of the action.
    """

    verbs: frozenset[Verb]
    target: Target = None

    def is_allowed(self, rights: Rights) -> bool:
        """Whether these rights allow this part."""
        return any(authorize(rights, verb, self.target) for verb in self.verbs)


_READ, _WRITE, _WATCH = (frozenset({verb}) for verb in (Verb.READ, Verb.WRITE, Verb.WATCH))


def operations_in(method: str, request: Any) -> int:
    """For how many operations a call of Doug counts; for one, unless it has several parts."""
    if isinstance(request, pb.ExecuteBatchRequest):
        count = len(request.operations)
    elif isinstance(request, pb.TxnRequest):
        count = len(request.compare) + len(request.success) + len(request.failure)
    else:
        count = 1
    # One with more than it may have is refused; it is charged no more than what could have been done.
    return max(1, min(count, BATCH_OPERATIONS_MAX))


def wanted(service: str, method: str, request: Any) -> Iterable[Wanted]:
    """All that a call asks to do; a client is served only if it may do every part of it.

    Args:
        service: The full name of the service.
        method: The name of the method, which has a rule.
        request: The message that the method is called with.
    """
    if (service, method) in OURS_ALONE:
        return (Wanted(frozenset()),)
    if service == DOUG:
        return _OF_DOUG[method](request)
    return (Wanted(frozenset(RULES[service][method])),)


def _operation(asked: pb.Operation) -> Wanted:
    kind = asked.WhichOneof("kind")
    if kind is None:
        return Wanted(frozenset(), _EVERY_KEY)
    return Wanted(_READ if kind == "get" else _WRITE, getattr(asked, kind).key)


def _written(request: Any) -> Iterable[Wanted]:
    return (Wanted(_WRITE, request.key),)


def _txn(request: pb.TxnRequest) -> Iterator[Wanted]:
    for compare in islice(request.compare, TXN_OPERATIONS_MAX):
        yield Wanted(_READ, compare.key)
    lists = (request.success, request.failure)
    yield from map(_operation, chain.from_iterable(islice(each, TXN_OPERATIONS_MAX) for each in lists))


def _deleted(request: pb.DeleteRangeRequest) -> Iterable[Wanted]:
    return (Wanted(_READ if request.dry_run else _WRITE, KeyRange(request.start, request.end)),)


_OF_DOUG: dict[str, Callable[[Any], Iterable[Wanted]]] = {
    "Get": lambda request: (Wanted(_READ, request.key),),
    "Put": _written,
    "Delete": _written,
    "Increment": _written,
    "Touch": _written,
    "Txn": _txn,
    "ExecuteBatch": lambda request: map(_operation, islice(request.operations, BATCH_OPERATIONS_MAX)),
    "FindOutcome": lambda request: (Wanted(_READ | _WRITE, request.key),),
    "DeleteRange": _deleted,
    "Partitions": lambda request: (),
    "Scan": lambda request: (Wanted(_READ, KeyRange(request.start, request.end)),),
    "Watch": lambda request: (Wanted(_WATCH, KeyRange(request.start, request.end)),),
}
