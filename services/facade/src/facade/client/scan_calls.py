"""Doug.Scan at one node: all scans share a connection that nothing else uses, of the own streams.

A node of a version whose own server does not know Scan is asked by grpcio, over a channel for scans. Must not know what
is scanned.

Invariants:
    1. No other request waits behind the pages of scans, and of each scan no more waits here than its window.
    2. A scan that is given up cuts off no other scan.
    3. Certificates that are newer count from the next scan on.

Source: ADR 9 and 18.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import grpc
import grpc.aio

from doug.v1 import doug_pb2, doug_pb2_grpc
from doug_stream.client import ClientCall, ClientEndpoint
from doug_stream.codes import StatusCode
from doug_stream.errors import CallError
from facade.client.channels import SCAN_OPTIONS, Channels
from facade.discovery.targets import Target

PATH = "/doug.v1.Doug/Scan"
LEFT_S = 5.0
"""How long the status of a scan may take to come behind its last page."""
RETIRED_S = 6.0
"""How long the scans of a channel of grpcio's go on when it is given up."""


class ScanCall(Protocol):
    """A call of Doug.Scan."""

    async def read(self) -> Any:
        """The next page, or ``grpc.aio.EOF``.

        Raises:
            CallError: The call ended otherwise than well.
        """

    def cancel(self) -> None:
        """Ends the call; nobody reads on."""

    def leave(self) -> None:
        """Ends it where the last page has been read and only the status is missing."""


class ScanCalls:
    """The calls of Doug.Scan at one node."""

    def __init__(self, channels: Channels, target: Target) -> None:
        """Connects with the first call."""
        self._channels = channels
        self._target = target
        self._dialling: asyncio.Task[ClientEndpoint] | None = None
        self._version = 0
        self._ended = False
        self._old: ClientEndpoint | None = None  # The connection of which it is known that it does not know Scan.
        self._channel: grpc.aio.Channel | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def open(self, request: doug_pb2.ScanRequest) -> ScanCall:
        """Asks for a scan; whatever hinders it, reading says so."""
        return _Call(self, request)

    def drop(self) -> None:
        """Gives up the connection, which is of no use any more; scans that are under way go on."""
        dialling, self._dialling = self._dialling, None
        self._old = None
        if dialling is not None:
            if not dialling.done():
                dialling.cancel()
            elif not dialling.cancelled() and dialling.exception() is None:
                dialling.result().retire()
        if self._channel is not None:
            task = asyncio.create_task(self._channel.close(RETIRED_S))
            self._channel = None
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def begin(self, request: doug_pb2.ScanRequest) -> ClientCall | None:
        """Begins a call of its own stream; None if the node is known not to serve that.

        Raises:
            CallError: The node is not to be reached.
        """
        if self._version != self._channels.version:
            self.drop()
        for _ in range(2):
            endpoint = await self._connected()
            if endpoint is self._old:
                return None
            try:
                call = endpoint.call(PATH, doug_pb2.ScanRequest.SerializeToString, doug_pb2.ScanPage.FromString)
            except CallError:
                # It is closed, or has as many calls as the node takes over one: another one has room.
                self.drop()
                continue
            try:
                await call.write(request)
                await call.done_writing()
            except BaseException:
                call.cancel()
                raise
            return call
        raise CallError(StatusCode.UNAVAILABLE, f"no scan may begin at {self._target.address}")

    async def _connected(self) -> ClientEndpoint:
        dialling = self._dialling
        if dialling is not None and dialling.done() and (dialling.cancelled() or dialling.exception() is not None):
            dialling = None
        if dialling is None:
            self._version = self._channels.version
            dialling = self._dialling = asyncio.create_task(self._channels.open_scans(self._target))
        try:
            # Other scans wait for the same connection.
            return await asyncio.shield(dialling)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if dialling.cancelled() and not (task is not None and task.cancelling()):
                raise CallError(StatusCode.UNAVAILABLE, f"{self._target.address} is somewhere else now") from None
            raise

    def begin_by_grpcio(self, request: doug_pb2.ScanRequest, call: ClientCall | None) -> _GrpcioCall:
        """Begins a call by grpcio, because the node does not serve its own stream, as ``call`` has shown."""
        if call is not None:
            self._old = call.endpoint
        if self._channel is None:
            self._channel = self._channels.open(self._target, SCAN_OPTIONS)
        return _GrpcioCall(doug_pb2_grpc.DougStub(self._channel).Scan(request))


class _GrpcioCall:
    """A call by grpcio, with the errors of the own streams."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[doug_pb2.ScanRequest, doug_pb2.ScanPage]) -> None:
        self._call = call

    async def read(self) -> Any:
        try:
            return await self._call.read()
        except grpc.aio.AioRpcError as error:
            status = StatusCode(error.code().value[0])
            raise CallError(status, error.details() or "", tuple(error.trailing_metadata() or ())) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # The connection was closed during the call, which looks like a cancellation.
            raise CallError(StatusCode.UNAVAILABLE, "the connection was closed") from None

    def cancel(self) -> None:
        self._call.cancel()

    leave = cancel


class _Call:
    """A call that is begun by whoever reads first."""

    def __init__(self, calls: ScanCalls, request: doug_pb2.ScanRequest) -> None:
        self._calls = calls
        self._request = request
        self._own: ClientCall | None = None
        self._other: _GrpcioCall | None = None

    async def read(self) -> Any:
        if self._own is None and self._other is None:
            return await self._first()
        call = self._own or self._other
        assert call is not None
        return await call.read()

    async def _first(self) -> Any:
        own = self._own = await self._calls.begin(self._request)
        if own is not None:
            try:
                return await own.read()
            except CallError as error:
                if error.status != StatusCode.UNIMPLEMENTED:
                    raise
        self._own, self._other = None, self._calls.begin_by_grpcio(self._request, own)
        return await self._other.read()

    def cancel(self) -> None:
        call = self._own or self._other
        if call is not None:
            call.cancel()

    def leave(self) -> None:
        if self._own is not None:
            self._own.limit(LEFT_S)
        elif self._other is not None:
            self._other.leave()
