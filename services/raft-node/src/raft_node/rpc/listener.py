"""A gRPC port of the node: the own server for the hot streams, grpcio's for everything, one address for both.

Which of the two serves a connection is decided by ``doug_stream.front``: streams of nodes and facades go to the own
server, all other clients to grpcio's, which listens on the loopback interface with the same certificates. Both serve
the same methods, counted alike. Must not know what the methods do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import grpc
import grpc.aio

from doug_stream.front import Front
from doug_stream.limits import Limits
from doug_stream.server import Method, Server, ServerCall
from doug_wire import tls
from doug_wire.tls import Certificates
from raft_node.errors import SettingsError
from raft_node.rpc.channels import MESSAGE_BYTES_MAX
from raft_node.rpc.hot_streams import Behaviour, HotStream, encode
from raft_node.rpc.interceptor import CountingInterceptor
from raft_node.rpc.requests import READ_S
from raft_node.settings import parse_address


class Listener:
    """Serves one gRPC port."""

    def __init__(
        self,
        server: grpc.aio.Server,
        streams: Mapping[HotStream, Behaviour],
        counting: CountingInterceptor,
        certificates: Certificates | None,
        connections_max: int,
        known: Collection[str] | None = None,
    ) -> None:
        """Builds it; ``open`` has it listen.

        Args:
            server: grpcio's server, which serves all methods. Not started yet.
            streams: The streams that the own server serves, too, each with the method that serves it.
            counting: Counts the calls of the own server.
            certificates: The certificates for mutual TLS; None for plaintext.
            connections_max: How many connections there may be.
            known: The names in certificates of those to whom the own server gives its whole bounds; None for everybody.
        """
        self._grpc = server
        self._certificates = certificates
        methods = {
            stream.path: Method(_served(stream, behaviour, counting), stream.decode_request, encode)
            for stream, behaviour in streams.items()
        }
        self._own = Server(methods, Limits(message_bytes_max=MESSAGE_BYTES_MAX), known=known)
        self._connections_max = connections_max
        self._front: Front | None = None

    async def open(self, address: str, what: str) -> None:
        """Listens on ``host:port``.

        Raises:
            SettingsError: The address cannot be used; ``what`` names the port in the message.
        """
        host, port = parse_address(address)
        backend = self._add_inner_port()
        await self._grpc.start()
        context = None if self._certificates is None else self._certificates.stream_context
        self._front = Front(self._own, backend, context, self._connections_max)
        try:
            await self._front.listen(host, port)
        except OSError as error:
            raise SettingsError(f"cannot listen on {address} ({what}): is the port taken? {error.strerror}") from error

    def _add_inner_port(self) -> tuple[str, int]:
        """Has grpcio's server listen where only this machine reaches it."""
        try:
            return "127.0.0.1", tls.add_port(self._certificates, self._grpc, "127.0.0.1:0")
        except RuntimeError:
            # A machine without IPv4.
            return "::1", tls.add_port(self._certificates, self._grpc, "[::1]:0")

    def caller(self, context: Any) -> str:
        """The true address of a caller: grpcio's server only sees the address from which its bytes are carried on."""
        peer: str = context.peer()
        if self._front is None or isinstance(context, ServerCall):
            return peer
        return self._front.caller(peer)

    async def stop(self, grace_s: float) -> None:
        """Takes no more connections and calls; those under way are cut off after ``grace_s``."""
        if self._front is not None:
            await self._front.stop()
        await asyncio.gather(self._own.stop(grace_s), self._grpc.stop(grace_s))
        if self._front is not None:
            self._front.cut_off()


def _served(stream: HotStream, behaviour: Behaviour, counting: CountingInterceptor) -> Behaviour:
    """What the own server calls for a method: counted and admitted as calls of grpcio are, by its request."""
    counted = counting.count_stream(stream.path, behaviour, asks_once=stream.asks_once)
    if not stream.asks_once:
        return counted

    async def serve(_: None, call: Any) -> None:
        try:
            async with asyncio.timeout(READ_S):
                request = await call.read()
        except TimeoutError:
            await call.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"the request did not come within {READ_S:g} s")
        if request is grpc.aio.EOF:
            await call.abort(grpc.StatusCode.INTERNAL, "a call without a request")
        await counted(request, call)

    return serve
