"""The messages of Doug's plain calls as commands, and outcomes as messages. Pure functions.

It knows neither the replica nor gRPC's calls; who asks, and which of it they may not do, is in variables of each call.
What a command may hold is judged in one place for all ways in, ``doug_wire.validity``; this module refuses only what a
message can say and a command cannot.

Source: protos/doug/v1/doug.proto; docs/api.md, gRPC.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar

from doug.v1 import doug_pb2 as pb
from doug_wire import command as commands
from doug_wire import idempotency
from doug_wire.command import KEEP, Command, CommandError, Opcode
from doug_wire.payload import (
    TXN_OPERATIONS_MAX,
    Compare,
    CompareKind,
    Txn,
    encode_increment,
    encode_txn,
)
from doug_wire.pipe import ResultRecord

identity: ContextVar[str] = ContextVar("identity", default="")
"""The owner of the idempotency keys of the call that is being served; empty while clients need not say who they are."""

forbidden: ContextVar[frozenset[int]] = ContextVar("forbidden", default=frozenset())
"""The places of the operations of the batch that is being served which its caller may not do."""


def get_command(request: pb.OperationGet) -> Command:
    """The command for a read within a transaction or a batch.

    Raises:
        CommandError: The request makes no sense.
    """
    return _sized(Command(Opcode.GET, request.key, b"", b"", request.epoch))


def put_command(request: pb.PutRequest) -> Command:
    """The command for a put.

    Raises:
        CommandError: The request makes no sense.
    """
    if request.keep_expiry and request.ttl_ms:
        raise CommandError("ttl_ms and keep_expiry are two expiries")
    wanted = Command(
        Opcode.PUT,
        request.key,
        request.content_type.encode(),
        request.value,
        request.epoch,
        ttl=KEEP if request.keep_expiry else _ttl(request.ttl_ms),
        content_encoding=request.content_encoding.encode(),
    )
    return _with_options(wanted, request.options)


def delete_command(request: pb.DeleteRequest) -> Command:
    """The command for a delete.

    Raises:
        CommandError: The request makes no sense.
    """
    return _with_options(Command(Opcode.DELETE, request.key, b"", b"", request.epoch), request.options)


def increment_command(request: pb.IncrementRequest) -> Command:
    """The command for an increment.

    Raises:
        CommandError: The request makes no sense.
    """
    value = encode_increment(request.by if request.HasField("by") else 1, request.initial)
    wanted = Command(Opcode.INCREMENT, request.key, b"", value, request.epoch, ttl=_ttl(request.ttl_ms))
    return _with_options(wanted, request.options)


def touch_command(request: pb.TouchRequest) -> Command:
    """The command for a touch.

    Raises:
        CommandError: The request makes no sense.
    """
    wanted = Command(Opcode.TOUCH, request.key, b"", b"", request.epoch, ttl=_ttl(request.ttl_ms))
    return _with_options(wanted, request.options)


def txn_command(request: pb.TxnRequest) -> Command:
    """The command for a transaction; its key is the first key that the request names.

    Raises:
        CommandError: The request makes no sense.
    """
    _check_count("compares", len(request.compare), TXN_OPERATIONS_MAX)
    compares = tuple(_compare(each) for each in request.compare)
    success = _operations(request.success, TXN_OPERATIONS_MAX)
    failure = _operations(request.failure, TXN_OPERATIONS_MAX)
    keys = [each.key for each in compares] + [each.key for each in (*success, *failure)]
    if not keys:
        raise CommandError("the transaction is empty")
    payload = encode_txn(Txn(compares, _encoded(success), _encoded(failure)))
    return _with_key(Command(Opcode.TXN, keys[0], b"", payload, 0), request.idempotency_key)


def result_message(result: ResultRecord) -> pb.OperationResult:
    """The message that tells the result of one operation."""
    return pb.OperationResult(
        status=result.status,  # type: ignore[arg-type]  # The enumeration has the numbers of doug_wire.pipe.Status.
        revision=result.revision,
        value=result.value,
        content_type=result.content_type.decode("ascii", "replace"),
        content_encoding=result.content_encoding.decode("ascii", "replace"),
        expires_at_ms=result.expires_at_ms,
        replayed=result.replayed,
    )


def outcome_message(result: ResultRecord) -> pb.OperationResult:
    """The message that tells what became of a write.

    A client that is judged here is not told what its write has read, for which it may have lost the right since: only
    the same write, sent again, is judged by all of its keys.
    """
    if identity.get():
        result = result._replace(value=b"", content_type=b"", content_encoding=b"")
    return result_message(result)


def token_id(key: str) -> bytes:
    """The bytes by which a shard knows an idempotency key, or that of one write of a facade's batch.

    Raises:
        CommandError: The request makes no sense.
    """
    _check_key(key, idempotency.OPERATION_KEY_CHARACTERS_MAX)
    return commands.token_id(identity.get(), key)


def _ttl(ttl_ms: int) -> int:
    if ttl_ms > commands.TTL_MS_MAX:
        raise CommandError(f"a time to live of {ttl_ms} ms, the limit is {commands.TTL_MS_MAX}")
    return ttl_ms


def _sized(wanted: Command) -> Command:
    """Refuses a command that cannot even be encoded; the other rules are those of ``doug_wire.validity``."""
    _check_size("key", wanted.key, commands.KEY_BYTES_MAX)
    _check_size("content type", wanted.content_type, commands.CONTENT_TYPE_BYTES_MAX)
    _check_size("content encoding", wanted.content_encoding, commands.CONTENT_ENCODING_BYTES_MAX)
    _check_size("value", wanted.value, commands.VALUE_BYTES_MAX)
    return wanted


def _check_size(what: str, data: bytes, bytes_max: int) -> None:
    if len(data) > bytes_max:
        raise CommandError(f"the {what} has {len(data)} bytes, the limit is {bytes_max}")


def _with_options(wanted: Command, options: pb.WriteOptions) -> Command:
    _sized(wanted)
    condition = options.condition
    kind = condition.WhichOneof("kind")
    if kind == "revision":
        wanted = wanted._replace(condition=commands.revision(condition.revision))
    elif kind == "exists":
        wanted = wanted._replace(condition=commands.EXISTS if condition.exists else commands.ABSENT)
    elif options.HasField("condition"):
        raise CommandError("a condition that says nothing")
    return _with_key(wanted, options.idempotency_key)


def _with_key(wanted: Command, key: str) -> Command:
    if not key:
        return wanted
    _check_key(key)
    return idempotency.with_token(wanted, identity.get(), key)


def _check_key(key: str, characters_max: int = idempotency.KEY_CHARACTERS_MAX) -> None:
    if not idempotency.is_key(key, characters_max):
        raise CommandError(f"an idempotency key has 1 to {characters_max} printable ASCII characters")


def _operations(operations: Sequence[pb.Operation], count_max: int) -> list[Command]:
    _check_count("operations", len(operations), count_max)
    return [operation(place, each) for place, each in enumerate(operations)]


def operation(place: int, asked: pb.Operation) -> Command:
    """The command for one operation of a transaction or a batch.

    Raises:
        CommandError: The request makes no sense.
    """
    match asked.WhichOneof("kind"):
        case "get":
            return get_command(asked.get)
        case "put":
            return put_command(asked.put)
        case "delete":
            return delete_command(asked.delete)
        case "increment":
            return increment_command(asked.increment)
        case "touch":
            return touch_command(asked.touch)
        case _:
            raise CommandError(f"operation {place} is none that this version knows")


def _encoded(operations: Iterable[Command]) -> tuple[bytes, ...]:
    return tuple(commands.encode(*operation) for operation in operations)


def _check_count(what: str, count: int, count_max: int) -> None:
    if count > count_max:
        raise CommandError(f"{count} {what}, and at most {count_max}")


def _compare(compare: pb.Compare) -> Compare:
    _check_size("key", compare.key, commands.KEY_BYTES_MAX)
    _check_size("value", compare.value, commands.VALUE_BYTES_MAX)
    match compare.WhichOneof("kind"):
        case "exists":
            return Compare(CompareKind.EXISTS if compare.exists else CompareKind.ABSENT, compare.key)
        case "revision":
            return Compare(CompareKind.REVISION, compare.key, compare.revision)
        case "value":
            return Compare(CompareKind.VALUE, compare.key, 0, compare.value)
        case _:
            raise CommandError("a comparison that compares nothing")
