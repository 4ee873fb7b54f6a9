"""Counts every call of DougDB's own services, under the names that gRPC servers elsewhere use for it.

It is also the way out for what ends the node: gRPC answers any exception of a method as UNKNOWN, and goes on.

It runs once for each call, not for each message: on a stream that lives for hours it costs nothing. What a call is
about is never looked at. Health checks and reflection are not counted: their methods are not ours, and what strangers
ask for would be a label of their choice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

from doug_wire.networks import host_of
from raft_node.errors import FatalError
from raft_node.observability.metrics import Metrics
from raft_node.rpc.others import few
from raft_node.rpc.requests import Requests

_OWN = "/doug.v1."
_STREAMS_REQUESTS = frozenset({"client_stream", "bidi_stream"})
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]
Attend = Callable[[Awaitable[Any]], Awaitable[Any]]
Admit = Callable[[Context, str, str, Any], Awaitable[Attend | None]]


class CountingInterceptor(grpc.aio.ServerInterceptor):
    """Counts calls that began and that ended, and how long unary ones took: ``grpc_server_*``.

    It remembers the methods of the server that it is given to, and so belongs to one server alone. Requires: every
    method of DougDB's services is a coroutine function.
    """

    def __init__(
        self,
        metrics: Metrics,
        on_failure: Callable[[FatalError], None],
        admit: Admit | None = None,
        requests: Requests | None = None,
    ) -> None:
        """Begins without a count.

        Args:
            metrics: The metrics in which calls are counted.
            on_failure: Called when a method fails in a way that must stop the node.
            admit: Aborts calls of callers that may not make this call of a method of a service, by its request, None
                for a stream of them, and may return what waits for its answer; None admits everybody.
            requests: Reads the requests of calls that have one, in place of gRPC; None to leave that to it.
        """
        self._metrics = metrics
        self._on_failure = on_failure
        self._admit = admit
        self._requests = requests
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Puts the counting in front of a method."""
        name = handler_call_details.method
        known = self._handlers.get(name)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        # None tells gRPC that no handler serves the method.
        if handler is None:
            return None
        # Of what is remembered here there is one handler for all calls, so that it can count them.
        serving = self._counted(name, handler) if name.startswith(_OWN) else few(handler, self._caller)
        counted = self._handlers[name] = self._read(serving)
        return counted

    def _caller(self, context: Context) -> str:
        return host_of(str(context.peer())) if self._requests is None else self._requests.caller(context)

    def _read(self, handler: Handler) -> Handler:
        """Has ``requests`` read the request of a method that takes one: to gRPC it is one that takes a stream."""
        requests = self._requests
        if requests is None or handler.request_streaming:
            return handler
        codecs = (handler.request_deserializer, handler.response_serializer)
        behaviour: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary

        async def serve(_: Any, context: Context) -> None:
            answer = await behaviour(await requests.read(context), context)
            if not handler.response_streaming:
                await context.write(answer)

        return grpc.stream_stream_rpc_method_handler(serve, *codecs)

    def count_stream(self, path: str, behaviour: Behaviour, *, asks_once: bool = False) -> Behaviour:
        """Puts the counting in front of a method that another server than gRPC's own serves.

        Args:
            path: The method's path.
            behaviour: What serves it, by a stream of answers.
            asks_once: Whether it takes one request, and no stream of them.
        """
        service, _, method = path.lstrip("/").rpartition("/")
        counted: Behaviour = self._count(behaviour, "server_stream" if asks_once else "bidi_stream", service, method)
        return counted

    def _counted(self, name: str, handler: Handler) -> Handler:
        service, _, method = name.lstrip("/").rpartition("/")
        codecs = (handler.request_deserializer, handler.response_serializer)
        match (handler.request_streaming, handler.response_streaming):
            case (False, False):
                behaviour = self._count(handler.unary_unary, "unary", service, method)
                return grpc.unary_unary_rpc_method_handler(behaviour, *codecs)
            case (False, True):
                behaviour = self._count(handler.unary_stream, "server_stream", service, method)
                return grpc.unary_stream_rpc_method_handler(behaviour, *codecs)
            case (True, False):
                behaviour = self._count(handler.stream_unary, "client_stream", service, method)
                return grpc.stream_unary_rpc_method_handler(behaviour, *codecs)
            case _:
                behaviour = self._count(handler.stream_stream, "bidi_stream", service, method)
                return grpc.stream_stream_rpc_method_handler(behaviour, *codecs)

    def _count(self, behaviour: Any, kind: str, service: str, method: str) -> Any:
        metrics, on_failure, admit = self._metrics, self._on_failure, self._admit
        labels = (metrics.shard, kind, service, method)
        started = metrics.grpc_started.labels(*labels)
        seconds = metrics.grpc_handling.labels(*labels) if kind == "unary" else None
        # Of a stream of requests gRPC gives an iterator here: its caller is judged before any of them has come.
        streams = kind in _STREAMS_REQUESTS

        async def call(request: Any, context: Context) -> Any:
            started.inc()
            started_s = time.perf_counter()
            code = "OK"
            try:
                attend = None if admit is None else await admit(context, service, method, None if streams else request)
                if attend is not None:
                    return await attend(behaviour(request, context))
                return await behaviour(request, context)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except grpc.aio.AbortError:
                code = _name_of(context.code())
                raise
            except FatalError as error:
                code = "UNKNOWN"
                on_failure(error)
                raise
            except BaseException:
                code = "UNKNOWN"
                raise
            finally:
                metrics.grpc_handled.labels(*labels, code).inc()
                if seconds is not None:
                    seconds.observe(time.perf_counter() - started_s)

        return call


def _name_of(code: object) -> str:
    """The name of a status that a context holds: as an enumeration, or as a number."""
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _CODES.get(code, "UNKNOWN") if isinstance(code, int) else "UNKNOWN"
