"""POST /v1/txn: compare, then do all of some operations or all of others, atomically in one shard.

Must not know gRPC. Invariants: (1) a request whose keys belong to several shards is refused before anything is sent,
with the slots of its keys; (2) a transaction is carried out as a whole, or leaves no trace.

Source: docs/api.md, Transactions; doug_wire.payload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from doug_wire import command as commands
from doug_wire.command import Command, Opcode
from doug_wire.payload import (
    PAYLOAD_BYTES_MAX,
    TXN_OPERATIONS_MAX,
    Compare,
    Txn,
    decode_txn_result,
    encode_txn,
)
from doug_wire.pipe import PipeError
from doug_wire.slots import slot_of
from facade.client.metrics import Metrics
from facade.client.router import Router
from facade.errors import BadRequestError, InternalError
from facade.routes import body as bodies
from facade.routes.options import Headers, parse_write
from facade.routes.quota import Quota
from facade.routes.raw import JSON_TYPE, RawApp, RawRequest, check_acceptable, check_length, check_media_type
from facade.routes.results import decided, item_view
from facade.routes.sessions import begin_session
from facade.routes.shapes import key_view, parse_compare, parse_operation
from facade.settings import Settings

BODY_BYTES_MAX = 2 * PAYLOAD_BYTES_MAX
"""As JSON, in base64."""

PARAMETERS = frozenset({b"consistency", b"max_staleness"})
_LISTS = ("compare", "success", "failure")

T = TypeVar("T")


def _parse_list(document: dict[str, Any], name: str, parse: Callable[[object], T]) -> list[T]:
    found = document.get(name, [])
    if not isinstance(found, list):
        raise BadRequestError("bad_request", f"{name} is a list.")
    if len(found) > TXN_OPERATIONS_MAX:
        detail = f"{name} has at most {TXN_OPERATIONS_MAX} members, not {len(found)}."
        raise BadRequestError("body_too_large", detail, status=413)
    parsed = []
    for place, each in enumerate(found):
        try:
            parsed.append(parse(each))
        except BadRequestError as error:
            raise BadRequestError(error.code, f"{name}[{place}]: {error.detail}", status=error.status) from None
    return parsed


def parse_txn(document: object) -> tuple[list[Compare], list[Command], list[Command]]:
    """The comparisons and operations of a transaction.

    Raises:
        BadRequestError: The document is something else.
    """
    if not isinstance(document, dict) or not document.keys() <= set(_LISTS):
        raise BadRequestError("bad_request", 'A transaction is {"compare": [...], "success": [...], "failure": [...]}.')
    compares = _parse_list(document, "compare", parse_compare)
    success = _parse_list(document, "success", parse_operation)
    failure = _parse_list(document, "failure", parse_operation)
    if not compares and not success and not failure:
        raise BadRequestError("bad_request", "The transaction is empty.")
    return compares, success, failure


class TxnApp(RawApp):
    """The route.

    Attributes:
        quota: Counts operations for the rates of clients.
    """

    route = "/v1/txn"
    methods = frozenset({"POST"})

    def __init__(self, router: Router, metrics: Metrics, settings: Settings) -> None:
        super().__init__(metrics)
        self._router = router
        self._body_timeout_s = settings.body_timeout_ms / 1000
        self.quota = Quota()

    async def serve(self, request: RawRequest) -> None:
        """See ``RawApp``."""
        headers = Headers(request.raw_headers)
        options = parse_write(request.query, headers, PARAMETERS)
        if options.condition is not None:
            raise BadRequestError("bad_condition", "A transaction compares; it has no If-Match or If-None-Match.")
        request.label = options.asked.mode.name
        session = await begin_session(self._router, options)
        check_media_type(headers.content_type, (JSON_TYPE,))
        check_acceptable(headers.accept, JSON_TYPE)
        announced = check_length(headers.content_length, headers.transfer_encoding)
        if announced > BODY_BYTES_MAX:
            raise bodies.too_large(BODY_BYTES_MAX, announced)
        body = await bodies.read(request.receive, BODY_BYTES_MAX, self._body_timeout_s)
        compares, success, failure = parse_txn(bodies.parse_json(body))
        keys = [compare.key for compare in compares] + [operation.key for operation in (*success, *failure)]
        self.quota.charge(len(keys) - 1)
        self._check_one_shard(keys)
        txn = Txn(
            tuple(compares),
            tuple(commands.encode(*operation) for operation in success),
            tuple(commands.encode(*operation) for operation in failure),
        )
        payload = encode_txn(txn)
        if len(payload) > PAYLOAD_BYTES_MAX:
            detail = f"The keys and values of the transaction take more than {PAYLOAD_BYTES_MAX} bytes."
            raise BadRequestError("body_too_large", detail, status=413)
        operation = self._router.write(Opcode.TXN, keys[0], value=payload, idempotency_key=options.idempotency_key)
        operation.session = session
        result, shown = await decided(operation)
        try:
            found = decode_txn_result(result.value)
            done = success if found.succeeded else failure
            items = [
                item_view(each.opcode, each.key, one, operation.shard)
                for each, one in zip(done, found.results, strict=True)
            ]
        except (PipeError, ValueError):
            raise InternalError("invalid_record", "A raft-node answered a transaction with something else.") from None
        answer = b'{"succeeded":%b,"results":[%b],"revision":"%d"}' % (
            b"true" if found.succeeded else b"false",
            b",".join(items),
            result.revision,
        )
        await request.answer_json(200, answer, shown)

    def _check_one_shard(self, keys: Iterable[bytes]) -> None:
        """Refuses keys of several shards.

        Raises:
            BadRequestError: 422; it names the slots.
            NotAppliedError: The map is not loaded.
        """
        owners = {key: self._router.directory.locate(key)[0].id for key in dict.fromkeys(keys)}
        if len(set(owners.values())) == 1:
            return
        slots = [{**key_view(key), "slot": slot_of(key), "shard": shard} for key, shard in owners.items()]
        raise BadRequestError(
            "cross_shard",
            "The keys belong to several shards; a {tag} in each of them puts keys together.",
            status=422,
            members={"slots": slots},
        )
