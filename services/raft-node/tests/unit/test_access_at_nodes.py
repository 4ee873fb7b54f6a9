"""What clients may do at a node's port: every role with every method, by every way in which a call can name a key.

The matrix is made of the descriptors: a method, or a field of a message, that is new is served to nobody or fails here
until it is told what it needs. What is expected is worked out from the grants and the keys alone, without the code that
is under test: a range is taken for the keys in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from itertools import permutations
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from doug.v1 import admin_pb2, doug_pb2
from doug_wire.auth import tokens
from doug_wire.auth.document import BUILT_IN, Held, TokenRecord
from doug_wire.auth.grants import Grant, Verb
from raft_node.rpc.doug import operations
from raft_testing.guests import FakeContext, Shard, shown

DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
MINE, OTHERS = b"app/a", b"secret/a"
METHODS: tuple[MethodDescriptor, ...] = tuple(
    method
    for file, name in ((doug_pb2, "Doug"), (admin_pb2, "Admin"))
    for method in file.DESCRIPTOR.services_by_name[name].methods
)

READ, WRITE, WATCH = frozenset({Verb.READ}), frozenset({Verb.WRITE}), frozenset({Verb.WATCH})
LOOKING, MEMBERS = frozenset({Verb.METRICS, Verb.MEMBERS}), frozenset({Verb.MEMBERS})
NOBODY: frozenset[Verb] = frozenset()

WITHOUT_KEYS: Mapping[str, frozenset[Verb] | None] = {
    "Partitions": None,
    "Pipe": NOBODY,
    "Status": LOOKING,
    "Events": LOOKING,
    "Members": LOOKING,
    "TransferLeadership": MEMBERS,
    "Drain": MEMBERS,
    "AddMember": MEMBERS,
    "RemoveMember": MEMBERS,
    "ReplaceMember": MEMBERS,
    "Backup": frozenset({Verb.BACKUP}),
    "GetAuth": NOBODY,
    "SetAuth": NOBODY,
}
"""The rights, one of which is enough for a method that names no key: no client has it, or None: whoever is known."""

IN_OPERATION = {"get.key": READ} | {f"{kind}.key": WRITE for kind in ("put", "delete", "increment", "touch")}
BY_KEY: Mapping[str, Mapping[str, frozenset[Verb]]] = {
    "Get": {"key": READ},
    "Put": {"key": WRITE},
    "Delete": {"key": WRITE},
    "Increment": {"key": WRITE},
    "Touch": {"key": WRITE},
    "FindOutcome": {"key": READ | WRITE},
    "Txn": {"compare.key": READ}
    | {f"{part}.{path}": right for part in ("success", "failure") for path, right in IN_OPERATION.items()},
    "ExecuteBatch": {f"operations.{path}": right for path, right in IN_OPERATION.items()},
}
"""The fields by which a method names keys, and the rights one of which is needed for each."""

BY_RANGE: Mapping[str, Mapping[bool, frozenset[Verb]]] = {
    "Scan": {False: READ},
    "Watch": {False: WATCH},
    "DeleteRange": {False: WRITE, True: READ},
}
"""The methods that name a range by ``start`` and ``end``, and the right for it, by whether it is only tried."""

OTHER_FIELDS = {
    "after", "after_place", "all", "by", "compare.exists", "compare.revision", "compare.value", "consistency",
    "content_encoding", "content_type", "count_only", "delimiter", "dry_run", "epoch", "forward",
    "idempotency_key", "initial", "keep_expiry", "keys_only", "kinds", "limit", "max_staleness_ms", "messages",
    "min_index", "now", "options.condition.exists", "options.condition.revision", "options.idempotency_key",
    "page_bytes_max", "prefix_bytes", "progress_ms", "reverse", "slot", "ttl_ms", "value",
}  # fmt: skip
"""The fields of Doug that name no key, without the lists and kinds of operations that they are in."""

ROLES: Mapping[str, tuple[Grant, ...]] = {
    "nothing": (),
    **{f"built-in-{name}": grants for name, grants in BUILT_IN.items()},
    **{f"all-{verb.value.replace(':', '-')}": (Grant(verb),) for verb in Verb},
    **{
        f"{verb.value}-{prefix.decode().strip('/')}-{len(prefix)}": (Grant(verb, prefix),)
        for verb in (Verb.READ, Verb.WRITE, Verb.WATCH)
        for prefix in (b"app/", b"app", b"application/", b"app/a", b"app/ab")
    },
    "reads-and-writes-apart": (Grant(Verb.READ, b"secret/"), Grant(Verb.WRITE, b"app/")),
    "two-halves": (Grant(Verb.READ, b"app"), Grant(Verb.WRITE, b"app/"), Grant(Verb.WRITE, b"secret/a")),
}

BORDERS = (b"app", b"app/", b"application/", b"app/a", b"app/ab", b"secret/", b"secret/a")
BEHIND = tuple(border[:-1] + bytes((border[-1] + 1,)) for border in BORDERS)
KEYS = sorted(
    {b"\0", b"zzz", b"\xff" * 9, *BORDERS, *BEHIND}
    | {border + more for border in (*BORDERS, *BEHIND) for more in (b"\0", b"\xff" * 9)}
)
"""Keys before, at, within and behind every prefix that is granted; by them ranges are judged here."""


class Part(NamedTuple):
    """A part of what a call does: all its keys, and the rights one of which is needed for all of them."""

    rights: frozenset[Verb]
    keys: tuple[bytes, ...]


def leaves(message: Descriptor, path: str = "") -> Iterator[tuple[str, FieldDescriptor]]:
    """The fields of a message that are no messages, by their paths."""
    for field in message.fields:
        if field.message_type is None:
            yield path + field.name, field
        else:
            yield from leaves(field.message_type, f"{path}{field.name}.")


def request_with(method: MethodDescriptor, *named: tuple[str, bytes]) -> Any:
    """A request that names keys by these paths, each in a part of its own where a method has parts."""
    request = GetMessageClass(method.input_type)()
    for path, key in named:
        *parents, last = path.split(".")
        at: Any = request
        for parent in parents:
            found = getattr(at, parent)
            at = found.add() if hasattr(found, "add") else found
        setattr(at, last, key)
    return request


def may(grants: Iterable[Grant], part: Part) -> bool:
    """Whether one grant is enough for a part; worked out of the keys themselves."""
    return any(
        grant.verb in part.rights and all(key[: len(grant.prefix)] == grant.prefix for key in part.keys)
        for grant in grants
    )


def named_by_keys(method: MethodDescriptor) -> Iterator[tuple[Any, list[Part]]]:
    """Requests with every field that names a key: alone, and together with every other one."""
    fields = BY_KEY[method.name]
    for path, right in fields.items():
        for key in (MINE, OTHERS, b"app", b"ap", b"app0", b"application/a", b"app/ab", b"App/a"):
            yield request_with(method, (path, key)), [Part(right, (key,))]
    if len(fields) > 1:
        for (one, right), (other, others) in permutations(fields.items(), 2):
            parts = [Part(right, (MINE,)), Part(others, (OTHERS,))]
            yield request_with(method, (one, MINE), (other, OTHERS)), parts


def named_by_ranges(method: MethodDescriptor) -> Iterator[tuple[Any, list[Part]]]:
    """Requests with every start and every end that a grant knows of, and without them."""
    for is_trial, right in BY_RANGE[method.name].items():
        for start in (b"", *BORDERS, *BEHIND):
            for end in (b"", *BORDERS, *BEHIND, *(border + b"\0" for border in BEHIND)):
                keys = tuple(key for key in KEYS if start <= key and (not end or key < end))
                if not keys:
                    continue
                request = request_with(method, ("start", start), ("end", end))
                if is_trial:
                    request.dry_run = True
                yield request, [Part(right, keys)]


def requests_of(method: MethodDescriptor) -> Iterator[tuple[Any, list[Part]]]:
    """Requests of a method, each with all that it asks for."""
    if method.name in BY_KEY:
        yield from named_by_keys(method)
    elif method.name in BY_RANGE:
        yield from named_by_ranges(method)
    else:
        yield GetMessageClass(method.input_type)(), []


def test_every_method_and_every_field_is_in_the_matrix() -> None:
    """One that is new has to be told here what it needs: a field that names a key is none of OTHER_FIELDS."""
    assert {method.name for method in METHODS} == WITHOUT_KEYS.keys() | BY_KEY.keys() | BY_RANGE.keys()
    for method in METHODS:
        if method.containing_service.name != "Doug" or method.name == "Pipe":
            continue
        fields = {path for path, _ in leaves(method.input_type)}
        by_key, is_range = BY_KEY.get(method.name, {}), method.name in BY_RANGE
        known = by_key.keys() | ({"start", "end"} if is_range else set())
        assert known <= fields, method.name
        for path in fields - known:
            kinds = ("success", "failure", "operations", "get", "put", "delete", "increment", "touch")
            shortened = ".".join(part for part in path.split(".") if part not in kinds)
            assert shortened in OTHER_FIELDS, f"{method.name}: does {path} name a key, and who may name it?"


async def outcome(shard: Shard, context: FakeContext, method: MethodDescriptor, request: Any) -> Any:
    """The status of a call, the places of the operations that are left out, or None for what is served as a whole."""

    async def called() -> Any:
        service, asked = method.containing_service.full_name, None if method.client_streaming else request
        status = await shard.calls(context, method.name, asked, service)
        return status or operations.forbidden.get() or None

    return await asyncio.create_task(called())  # With variables of its own, as gRPC's calls have.


def expected(grants: Iterable[Grant], method: MethodDescriptor, parts: list[Part]) -> Any:
    """What ``outcome`` has to be."""
    if method.name in WITHOUT_KEYS:
        rights = WITHOUT_KEYS[method.name]
        return None if rights is None or any(grant.verb in rights for grant in grants) else DENIED
    refused = frozenset(place for place, part in enumerate(parts) if not may(grants, part))
    if method.name == "ExecuteBatch":
        return refused or None
    return DENIED if refused else None


@pytest.mark.parametrize("method", METHODS, ids=lambda method: str(method.name))
async def test_each_role_may_do_at_a_node_what_its_grants_say_and_nothing_else(method: MethodDescriptor) -> None:
    shard = Shard()
    shown_by = {}
    for number, (role, grants) in enumerate(ROLES.items()):
        minted = tokens.mint()
        name = role.removeprefix("built-in-")
        held = Held((), (name,)) if role != name else Held(grants)
        record = TokenRecord(minted.id, minted.salt, minted.digest, held, 1, 0)
        shard.becomes(shard.document.with_token(f"t{number}", record))
        shown_by[role] = shown(minted.text)
    count = 0
    assert await outcome(shard, FakeContext(), method, GetMessageClass(method.input_type)()) is UNKNOWN
    for request, parts in requests_of(method):
        count += 1
        for role, grants in ROLES.items():
            found = await outcome(shard, shown_by[role], method, request)
            assert found == expected(grants, method, parts), (role, method.name, request)
    assert count == 1 or count > 7
