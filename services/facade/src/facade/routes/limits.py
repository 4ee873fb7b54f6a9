"""GET /v1/limits: every limit that a client can meet, by name.

Must not know who enforces them. Invariant: the numbers are the constants that are enforced; none is written twice.
"""

from __future__ import annotations

from fastapi import APIRouter

from doug_wire import command, payload
from facade.models import LimitsView
from facade.routes import batch, options
from facade.routes.strict import JSON_BYTES_MAX, JsonRoute
from facade.settings import Settings


def make_router(settings: Settings) -> APIRouter:
    """Makes the route."""
    routes = APIRouter(tags=["cluster"], route_class=JsonRoute)

    @routes.get("/v1/limits")
    async def limits() -> LimitsView:
        """Read every limit that a request can meet."""
        return LimitsView(
            key_bytes=command.KEY_BYTES_MAX,
            value_bytes=command.VALUE_BYTES_MAX,
            content_type_bytes=command.CONTENT_TYPE_BYTES_MAX,
            content_encoding_bytes=command.CONTENT_ENCODING_BYTES_MAX,
            idempotency_key_characters=options.IDEMPOTENCY_KEY_MAX,
            ttl_ms=command.TTL_MS_MAX,
            batch_operations=payload.BATCH_OPERATIONS_MAX,
            batch_bytes=batch.BODY_BYTES_MAX,
            batch_line_bytes=batch.LINE_BYTES_MAX,
            txn_operations=payload.TXN_OPERATIONS_MAX,
            txn_bytes=payload.PAYLOAD_BYTES_MAX,
            txn_result_bytes=payload.RESULT_BYTES_MAX,
            json_bytes=JSON_BYTES_MAX,
            request_timeout_ms=settings.request_timeout_ms,
            body_timeout_ms=settings.body_timeout_ms,
            head_timeout_ms=settings.head_timeout_ms,
        )

    return routes
