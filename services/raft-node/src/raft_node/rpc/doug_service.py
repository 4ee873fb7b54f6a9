"""The Doug service: what clients and the facade call on a node.

Refusals carry ``doug-code`` in the trailing metadata, and a NOT_LEADER the leader's name and address beside it
(docs/api.md, gRPC).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
import grpc.aio

from doug.v1 import doug_pb2 as pb
from doug.v1 import doug_pb2_grpc
from doug_wire import command as commands
from doug_wire.command import CommandError, Opcode
from doug_wire.pipe import Status
from doug_wire.slots import slot_of
from doug_wire.trace_context import TRACEPARENT, TraceContext, parse_traceparent
from doug_wire.validity import validate
from raft_node.errors import OverloadedError, UnavailableError
from raft_node.kv.keyspace import StoredValue
from raft_node.kv.operations.work import Details
from raft_node.observability.metrics import Metrics
from raft_node.observability.tracing import NodeTraces, RequestTrace, WriteTrace
from raft_node.rpc import scan_stream
from raft_node.rpc.pipe import PipeSession
from raft_node.rpc.shard import Shard
from raft_node.rpc.streams import BROKEN
from raft_node.rpc.traced_pipe import TracedPipeSession
from raft_node.runtime.proposals import Submission, TracedSubmission
from raft_node.storage.engine import BlockNeeded

Context = grpc.aio.ServicerContext[Any, Any]

_CODES = {
    Status.NOT_LEADER: grpc.StatusCode.FAILED_PRECONDITION,
    Status.WRONG_SHARD: grpc.StatusCode.FAILED_PRECONDITION,
    Status.NOT_APPLIED: grpc.StatusCode.ABORTED,
    Status.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Status.DISK_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    # Never UNAVAILABLE: retry policies send that again, and the write may have been applied.
    Status.UNKNOWN: grpc.StatusCode.DEADLINE_EXCEEDED,
    Status.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Status.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Status.NOT_FRESH: grpc.StatusCode.UNAVAILABLE,
}


class _FutureSink:
    """Takes the result of one write into a future."""

    def __init__(self, trace: WriteTrace | None) -> None:
        self.result: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._trace = trace

    def resolve(self, record_id: int, status: int, revision: int, details: Details | None = None) -> None:
        if self._trace is not None:
            self._trace.end(status)
        if not self.result.done():
            self.result.set_result((status, revision))


def _caller(context: Context) -> TraceContext | None:
    """The sampled span that a unary call belongs to, by its metadata."""
    found = [value for name, value in context.invocation_metadata() or () if name == TRACEPARENT]
    if len(found) != 1:
        return None
    value = found[0]
    caller = parse_traceparent(value if isinstance(value, bytes) else value.encode())
    return caller if caller is not None and caller.sampled else None


class DougService(doug_pb2_grpc.DougServicer):
    """Serves clients. ``attach`` gives it the replica once that runs; until then every call is UNAVAILABLE."""

    def __init__(self, metrics: Metrics, traces: NodeTraces | None = None) -> None:
        """Starts detached."""
        self._metrics = metrics
        self._traces = traces
        self._shard: Shard | None = None
        self._sessions: set[PipeSession] = set()
        self._received = {
            name: metrics.received("Doug", name) for name in ("Get", "Put", "Delete", "Partitions", "Scan")
        }

    def attach(self, shard: Shard) -> None:
        """From now on calls are served."""
        self._shard = shard

    def tell_leader(self) -> None:
        """Tells everyone with an open stream who leads now."""
        for session in self._sessions:
            session.tell_leader()

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.GetResponse:  # noqa: N802
        """Reads a key, by default after a quorum has confirmed this leader, or the one that it asks."""
        self._received["Get"].inc()
        caller = None if self._traces is None else _caller(context)
        if self._traces is None or caller is None:
            return await self._get(request, context, None)
        trace = self._traces.read(caller)
        try:
            response = await self._get(request, context, trace)
            trace.end(Status.OK if response.found else Status.NOT_FOUND)
        finally:
            trace.end(None, "refused")
        return response

    async def _get(self, request: pb.GetRequest, context: Context, trace: RequestTrace | None) -> pb.GetResponse:
        shard = await self._admit(context)
        await self._check_key(request.key, context)
        if request.consistency != pb.CONSISTENCY_EVENTUAL:
            if trace is not None:
                trace.begin("raft read_index")
            await self._confirm(shard, context, forward=request.forward)
            if trace is not None:
                trace.finish()
        else:
            await self._wait_until_fresh(shard, request, context)
        if not shard.driver.machine.created:
            await self._refuse(shard, Status.UNAVAILABLE, context)
        if not shard.driver.machine.owns(slot_of(request.key), request.epoch):
            await self._refuse(shard, Status.WRONG_SHARD, context)
        proven_s = shard.freshness.proven_s
        try:
            found = shard.reader.get(request.key)
            if isinstance(found, BlockNeeded):
                found = await shard.reader.load(found)
        except UnavailableError:
            await self._refuse(shard, Status.UNAVAILABLE, context)
        receipt = shard.receipt(proven_s)
        return self._get_response(receipt, found)

    async def Put(self, request: pb.PutRequest, context: Context) -> pb.PutResponse:  # noqa: N802
        """Writes a key."""
        self._received["Put"].inc()
        content_type = request.content_type.encode()
        if len(content_type) > commands.CONTENT_TYPE_BYTES_MAX:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "INVALID: the content type is too long", (("doug-code", "INVALID"),)
            )
        shard, revision = await self._write(
            Opcode.PUT, request.key, content_type, request.value, request.epoch, context
        )
        return pb.PutResponse(revision=revision, receipt=shard.receipt())

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:  # noqa: N802
        """Deletes a key; a missing one is fine."""
        self._received["Delete"].inc()
        shard, revision = await self._write(Opcode.DELETE, request.key, b"", b"", request.epoch, context)
        return pb.DeleteResponse(revision=revision, receipt=shard.receipt())

    async def Pipe(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.Batch], context: Context
    ) -> None:
        """Serves a stream of batches."""
        shard = await self._admit(context)
        if self._traces is None:
            session = PipeSession(shard, context, self._metrics)
        else:
            session = TracedPipeSession(shard, context, self._metrics, self._traces)
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)

    async def Scan(  # type: ignore[override]  # noqa: N802
        self, request: pb.ScanRequest, context: Context
    ) -> None:
        """Sends keys in order, as of one point in the log."""
        self._received["Scan"].inc()
        shard = await self._admit(context)
        try:
            options = scan_stream.options_of(request)
        except scan_stream.ScanRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"INVALID: {error}", (("doug-code", "INVALID"),))
        if request.consistency != pb.CONSISTENCY_EVENTUAL:
            await self._confirm(shard, context, forward=request.forward)
        else:
            await self._wait_until_fresh(shard, request, context)
        if not shard.driver.machine.created:
            await self._refuse(shard, Status.UNAVAILABLE, context)
        try:
            await scan_stream.send(shard, options, context.write, messages=request.messages)
        except OverloadedError:
            await self._refuse(shard, Status.OVERLOADED, context)
        except UnavailableError:
            await self._refuse(shard, Status.UNAVAILABLE, context)
        except scan_stream.ScanExpiredError as error:
            await context.abort(grpc.StatusCode.ABORTED, f"SCAN_EXPIRED: {error}", (("doug-code", "SCAN_EXPIRED"),))
        except (*BROKEN, grpc.aio.InternalError):
            return  # Nobody reads on.

    async def Partitions(self, request: pb.PartitionsRequest, context: Context) -> pb.PartitionsResponse:  # noqa: N802
        """The partition map, from shard 0's leader, confirmed by a quorum."""
        self._received["Partitions"].inc()
        shard = await self._admit(context)
        if shard.number != 0:
            await self._refuse(shard, Status.WRONG_SHARD, context)
        await self._confirm(shard, context)
        partition_map = shard.driver.machine.partition_map()
        if partition_map is None:
            await self._refuse(shard, Status.UNAVAILABLE, context)
        ranges = [
            pb.SlotRange(**{"from": entry.first, "to": entry.last, "shard": entry.shard, "epoch": entry.epoch})
            for entry in partition_map.ranges
        ]
        return pb.PartitionsResponse(epoch=partition_map.epoch, slots=ranges, cluster_id=shard.peers.me.cluster_id)

    async def _write(
        self, opcode: Opcode, key: bytes, content_type: bytes, value: bytes, epoch: int, context: Context
    ) -> tuple[Shard, int]:
        shard = await self._admit(context)
        await self._check_key(key, context)
        command = commands.encode(opcode, key, content_type, value, epoch)
        try:
            validate(command)
        except CommandError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"INVALID: {error}", (("doug-code", "INVALID"),))
        machine = shard.driver.machine
        if not shard.takes_requests or not machine.created:
            await self._refuse(shard, Status.NOT_LEADER, context)
        if not machine.owns(slot_of(key), epoch):
            await self._refuse(shard, Status.WRONG_SHARD, context)
        caller = None if self._traces is None else _caller(context)
        trace = None if self._traces is None or caller is None else self._traces.write(caller)
        sink = _FutureSink(trace)
        submission = Submission(sink, 0, commands.checksum(command), command)
        shard.driver.submit([submission if trace is None else TracedSubmission.of(submission, trace)])
        status, revision = await sink.result
        if status != Status.OK:
            await self._refuse(shard, Status(status), context)
        return shard, revision

    async def _confirm(self, shard: Shard, context: Context, *, forward: bool = False) -> None:
        """Returns once a quorum has confirmed that this node leads, and what it had committed is applied.

        With ``forward`` a node that follows has its leader confirmed instead.
        """
        confirmed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def settle(ok: bool) -> None:
            if not confirmed.done():
                confirmed.set_result(ok)

        shard.driver.read(settle, forward=forward)
        if not await confirmed:
            await self._refuse(shard, Status.NOT_LEADER, context)

    async def _wait_until_fresh(self, shard: Shard, request: pb.GetRequest | pb.ScanRequest, context: Context) -> None:
        """Returns once this replica may serve a local read, and contains what it asks for."""
        if not shard.serves_local_reads:
            await self._refuse(shard, Status.UNAVAILABLE, context)
        asked = (request.min_index, request.max_staleness_ms / 1000)
        if shard.freshness.serves(*asked):
            return
        fresh: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def settle(ok: bool) -> None:
            if not fresh.done():
                fresh.set_result(ok)

        shard.freshness.wait(*asked, settle)
        if not await fresh or not shard.serves_local_reads:
            await self._refuse(shard, Status.NOT_FRESH, context)

    async def _admit(self, context: Context) -> Shard:
        if self._shard is None:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE: the node is starting", (("doug-code", "UNAVAILABLE"),)
            )
        return self._shard

    async def _check_key(self, key: bytes, context: Context) -> None:
        if not 0 < len(key) <= commands.KEY_BYTES_MAX:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"INVALID: a key has 1 to {commands.KEY_BYTES_MAX} bytes, not {len(key)}",
                (("doug-code", "INVALID"),),
            )

    async def _refuse(self, shard: Shard, status: Status, context: Context) -> NoReturn:
        details = status.name
        metadata: tuple[tuple[str, str], ...] = (("doug-code", status.name), ("doug-shard", str(shard.number)))
        if status is Status.NOT_LEADER:
            leader = shard.leader()
            details = f"NOT_LEADER: the leader is {leader.id or 'not known'} {leader.address}".rstrip()
            metadata = (*metadata, ("doug-leader-id", leader.id), ("doug-leader-address", leader.address))
        await context.abort(_CODES[status], details, metadata)

    def _get_response(self, receipt: pb.Receipt, found: StoredValue | None) -> pb.GetResponse:
        if found is None:
            return pb.GetResponse(found=False, receipt=receipt)
        return pb.GetResponse(
            found=True,
            value=found.value,
            content_type=found.content_type.decode("ascii"),
            revision=found.revision,
            receipt=receipt,
        )
