"""Turns a shard's result into an answer to a client: a status, headers, or a problem.

Must not know how a result came here. Invariant: a replayed result gives the answer that the first one gave, and says
that it is replayed.

Source: docs/api.md, Response headers.
"""

from __future__ import annotations

import functools

import orjson

from doug_wire.command import Opcode
from doug_wire.pipe import ResultRecord, Status
from doug_wire.validity import is_printable
from facade.client.modes import LEADER_KINDS, LINEARIZABLE, ReadMode
from facade.client.operation import Operation
from facade.client.receipts import SERVER_TIMING, Headers, of_operation, timing_of
from facade.errors import BadRequestError, DecidedError, InternalError, Outcome, ProblemError
from facade.routes.durations import timestamp
from facade.routes.shapes import entry_view

DEFAULT_CONTENT_TYPE = b"application/octet-stream"
REPLAYED = (b"idempotency-replayed", b"true")

_DECIDED: dict[int, tuple[str, int, str]] = {
    Status.NOT_FOUND: ("not_found", 404, "The key does not exist."),
    Status.PRECONDITION_FAILED: ("precondition_failed", 412, "The condition does not hold."),
    Status.NOT_A_NUMBER: ("not_a_number", 409, "The value is not a decimal integer of 64 bits."),
    Status.OVERFLOW: ("overflow", 409, "The sum does not fit into 64 bits."),
    Status.TOKEN_REUSED: ("idempotency_key_reused", 422, "Another request has used this idempotency key."),
    Status.TOKENS_FULL: (
        "idempotency_full",
        507,
        "The shard keeps as many idempotency keys as it may, or as many of this client's as are free.",
    ),
    Status.TOKEN_EXPIRED: (
        "idempotency_expired",
        409,
        "The idempotency key is older than keys are kept; what became of its request is forgotten.",
    ),
    Status.RESULT_TOO_LARGE: (
        "result_too_large",
        422,
        "The results would be larger than 1 MiB, or what is read and stored larger than 16 MiB.",
    ),
}


@functools.cache
def shard_header(shard: int) -> tuple[bytes, bytes]:
    """The header that names a shard."""
    return (b"doug-shard", b"%d" % shard)


def receipt(operation: Operation, result: ResultRecord, mode: ReadMode = LINEARIZABLE) -> Headers:
    """The headers that name the node that answered, and tell the other facts of the result."""
    if operation.kind in LEADER_KINDS:
        # The leader answered, as it also does for a session that may have seen more than its token tells.
        mode = LINEARIZABLE
    shown: Headers = (shard_header(operation.shard), *mode.headers, *of_operation(operation))
    if result.expires_at_ms:
        shown = (*shown, (b"doug-expires-at", timestamp(result.expires_at_ms).encode()))
    return (*shown, REPLAYED) if result.replayed else shown


def etag(revision: int) -> tuple[bytes, bytes]:
    """The entity tag of a revision."""
    return (b"etag", b'"%d"' % revision)


def problem_of(
    result: ResultRecord, shard: int, *, uncertain: bool = False, shown: Headers = ()
) -> ProblemError | None:
    """The problem that a result stands for; None if it is a success.

    Args:
        result: The shard's result.
        shard: The shard's number.
        uncertain: Whether an earlier try of the same write may have been applied.
        shown: Further headers.
    """
    status = result.status
    if status == Status.OK:
        return None
    known = _DECIDED.get(status)
    if known is None:
        return InternalError("invalid_record", f"A raft-node gave the status {status}.", shard=shard)
    code, http_status, detail = known
    if status == Status.NOT_FOUND:
        return BadRequestError(code, detail, status=http_status, shard=shard, headers=shown)
    members: dict[str, object] = {}
    if status == Status.PRECONDITION_FAILED:
        members["current_revision"] = str(result.revision) if result.revision else None
        if result.revision:
            shown = (*shown, etag(result.revision))
    if result.value.isdigit():
        # Of a transaction: which of its operations failed, and undid all of them.
        members["operation"] = int(result.value)
    outcome: Outcome = "not_applied"
    if status == Status.TOKEN_EXPIRED or (status == Status.TOKENS_FULL and uncertain):
        outcome = "unknown"
    return DecidedError(
        code,
        detail,
        status=http_status,
        shard=shard,
        headers=shown,
        members=members,
        outcome=outcome,
        retryable=status == Status.TOKENS_FULL,
    )


def shown_content_type(result: ResultRecord) -> bytes:
    """The content type that a value is shown with.

    Through gRPC anything can be stored, and a line break here would be a header of its own.
    """
    content_type = result.content_type
    return content_type if content_type and is_printable(content_type) else DEFAULT_CONTENT_TYPE


def timing(operation: Operation) -> Headers:
    """The header that tells how an operation's time was spent, but for the facade's own; none if it is switched off."""
    told = timing_of(operation)
    return ((SERVER_TIMING, told),) if told else ()


async def answer_of(operation: Operation) -> ResultRecord:
    """Waits for the shard's answer to an operation.

    Raises:
        ProblemError: There was no answer that counts; the problem names the node that answered last, if any did.
    """
    try:
        return await operation.future
    except ProblemError as error:
        error.headers = (*error.headers, *of_operation(operation), *timing(operation))
        raise


async def decided(operation: Operation, mode: ReadMode = LINEARIZABLE) -> tuple[ResultRecord, Headers]:
    """Waits for a success; returns it with the headers that go with it.

    Raises:
        ProblemError: There was none.
    """
    result = await answer_of(operation)
    shown = (*receipt(operation, result, mode), *timing(operation))
    problem = problem_of(result, operation.shard, uncertain=operation.uncertain, shown=shown)
    if problem is not None:
        raise problem
    return result, shown


# Of batches and transactions.

_SUCCESS: dict[int, int] = {Opcode.DELETE: 204}
PLAIN_PUT_VIEW = b'{"status":200,"revision":"%d"}'
"""The view of a put that succeeded, and of which there is no more to say than its revision."""


def puts_view(revisions: range) -> bytes:
    """The views of puts that succeeded, with commas between them."""
    return _plain_put_views(len(revisions)) % (*revisions,)


@functools.lru_cache(maxsize=16)
def _plain_put_views(count: int) -> bytes:
    return b",".join([PLAIN_PUT_VIEW] * count)


def item_view(
    opcode: int, key: bytes, result: ResultRecord | ProblemError, shard: int, *, uncertain: bool = False
) -> bytes:
    """The result of one operation among others, as JSON: its status as if it were alone, with value or problem."""
    if isinstance(result, ProblemError):
        return orjson.dumps(_problem_view(result))
    if result.status == Status.OK and opcode == Opcode.PUT and not result.replayed and not result.expires_at_ms:
        return PLAIN_PUT_VIEW % result.revision
    problem = problem_of(result, shard, uncertain=uncertain)
    view: dict[str, object]
    if problem is not None:
        view = _problem_view(problem)
    elif opcode == Opcode.GET:
        view = {"status": 200, **entry_view(key, result, shown_content_type(result))}
    else:
        view = {"status": _SUCCESS.get(opcode, 200), "revision": str(result.revision)}
        if opcode == Opcode.INCREMENT:
            view["value"] = result.value.decode()
        if result.expires_at_ms:
            view["expires_at"] = timestamp(result.expires_at_ms)
    if result.replayed:
        view["replayed"] = True
    return orjson.dumps(view)


def _problem_view(error: ProblemError) -> dict[str, object]:
    view: dict[str, object] = {
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "retryable": error.retryable,
        "outcome": error.outcome,
    }
    if error.shard is not None:
        view["shard"] = error.shard
    view.update(error.members)
    return view
