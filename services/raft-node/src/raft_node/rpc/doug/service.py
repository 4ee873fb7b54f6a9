"""The Doug service: what clients and the facade call on a node.

Refusals carry ``doug-code`` in the trailing metadata, and a NOT_LEADER the leader's name and address beside it
(docs/api.md, gRPC).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio

from doug.v1 import doug_pb2 as pb
from doug.v1 import doug_pb2_grpc
from doug_wire import command as commands
from doug_wire import pipe
from doug_wire.command import Command, CommandError
from doug_wire.payload import decode_txn_result
from doug_wire.pipe import ResultRecord, Status
from doug_wire.slots import slot_of
from doug_wire.trace_context import TRACEPARENT, TraceContext, parse_traceparent
from doug_wire.validity import validate
from raft_node.errors import OverloadedError, UnavailableError
from raft_node.kv.keyspace import StoredValue
from raft_node.kv.operations.work import Details
from raft_node.observability.metrics import Metrics
from raft_node.observability.tracing import NodeTraces, RequestTrace, WriteTrace
from raft_node.rpc.doug import batch_execution, operations, range_deletion, scan_stream, watch_stream
from raft_node.rpc.doug.pipe import PipeSession
from raft_node.rpc.doug.replica import Replica, clock_stands, has_run_out
from raft_node.rpc.doug.traced_pipe import RecordSpans, TracedSubmission
from raft_node.rpc.raft.streams import BROKEN
from raft_node.runtime.reads.watches import HistoryGoneError
from raft_node.runtime.writes.proposals import Submission
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
    Status.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Status.PRECONDITION_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    Status.NOT_A_NUMBER: grpc.StatusCode.FAILED_PRECONDITION,
    Status.OVERFLOW: grpc.StatusCode.OUT_OF_RANGE,
    Status.TOKEN_REUSED: grpc.StatusCode.INVALID_ARGUMENT,
    Status.TOKENS_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Status.TOKEN_EXPIRED: grpc.StatusCode.FAILED_PRECONDITION,
    Status.RESULT_TOO_LARGE: grpc.StatusCode.OUT_OF_RANGE,
}
_Request = TypeVar("_Request")


class _FutureSink:
    """Takes the result of one write into a future."""

    def __init__(self, trace: WriteTrace | None) -> None:
        self.result: asyncio.Future[ResultRecord] = asyncio.get_running_loop().create_future()
        self._trace = trace

    def resolve(self, record_id: int, status: int, revision: int, details: Details | None = None) -> None:
        if self._trace is not None:
            self._trace.end(status)
        if not self.result.done():
            self.result.set_result(ResultRecord(record_id, status, revision, *(details or Details())))


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
        self._replica: Replica | None = None
        self._sessions: set[PipeSession] = set()
        self._received = {
            method.name: metrics.received("Doug", method.name)
            for method in pb.DESCRIPTOR.services_by_name["Doug"].methods
            if not method.client_streaming
        }

    def attach(self, replica: Replica) -> None:
        """Gives the service its replica: from now on calls are served."""
        self._replica = replica

    def tell_leader(self) -> None:
        """Tells all facades with an open stream who leads now."""
        for session in self._sessions:
            session.tell_leader()

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.GetResponse:  # noqa: N802
        """Reads a key, by default after a quorum has confirmed this leader, or with ``forward`` this node's leader."""
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
        replica = await self._admit(context)
        await self._check_key(request.key, context)
        if request.consistency != pb.CONSISTENCY_EVENTUAL:
            if trace is not None:
                trace.begin("raft read_index")
            await self._confirm(replica, context, forward=request.forward)
            if trace is not None:
                trace.finish()
        else:
            await self._wait_until_fresh(replica, request, context)
        linearizable = request.consistency != pb.CONSISTENCY_EVENTUAL
        proven_s = replica.freshness.proven_s
        found = await self._look_up(replica, request.key, request.epoch, context)
        if linearizable and has_run_out(replica, found):
            await self._await_clock(replica, context)
            found = await self._look_up(replica, request.key, request.epoch, context)
        return self._get_response(replica.receipt(proven_s), found)

    async def Put(self, request: pb.PutRequest, context: Context) -> pb.PutResponse:  # noqa: N802
        """Writes a key."""
        command = await self._understand("Put", operations.put_command, request, context)
        replica, result = await self._decide(command, context)
        return pb.PutResponse(
            revision=result.revision,
            receipt=replica.receipt(),
            expires_at_ms=result.expires_at_ms,
            replayed=result.replayed,
        )

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:  # noqa: N802
        """Deletes a key; a missing one is fine, unless a condition says otherwise."""
        command = await self._understand("Delete", operations.delete_command, request, context)
        replica, result = await self._decide(command, context)
        return pb.DeleteResponse(revision=result.revision, receipt=replica.receipt(), replayed=result.replayed)

    async def Increment(self, request: pb.IncrementRequest, context: Context) -> pb.IncrementResponse:  # noqa: N802
        """Adds to a number."""
        command = await self._understand("Increment", operations.increment_command, request, context)
        replica, result = await self._decide(command, context)
        return pb.IncrementResponse(
            value=int(result.value),
            revision=result.revision,
            receipt=replica.receipt(),
            expires_at_ms=result.expires_at_ms,
            replayed=result.replayed,
        )

    async def Touch(self, request: pb.TouchRequest, context: Context) -> pb.TouchResponse:  # noqa: N802
        """Gives a key another expiry."""
        command = await self._understand("Touch", operations.touch_command, request, context)
        replica, result = await self._decide(command, context)
        return pb.TouchResponse(
            revision=result.revision,
            receipt=replica.receipt(),
            expires_at_ms=result.expires_at_ms,
            replayed=result.replayed,
        )

    async def Txn(self, request: pb.TxnRequest, context: Context) -> pb.TxnResponse:  # noqa: N802
        """Compares, then carries out all operations of one list or all of another, by the result."""
        command = await self._understand("Txn", operations.txn_command, request, context)
        replica, result = await self._decide(command, context)
        found = decode_txn_result(result.value)
        return pb.TxnResponse(
            succeeded=found.succeeded,
            results=map(operations.result_message, found.results),
            revision=result.revision,
            receipt=replica.receipt(),
            replayed=result.replayed,
        )

    async def ExecuteBatch(  # noqa: N802
        self, request: pb.ExecuteBatchRequest, context: Context
    ) -> pb.ExecuteBatchResponse:
        """Carries out operations that have nothing to do with each other."""
        self._received["ExecuteBatch"].inc()
        forbidden = operations.forbidden.get()
        try:
            parts = await batch_execution.understand(request, forbidden)
        except CommandError as error:
            await self._refuse_form(str(error), context)
        replica = await self._admit(context)
        done = await batch_execution.carry_out(parts, partial(self._submit, replica, context), forbidden)
        if isinstance(done, ResultRecord):
            await self._refuse(replica, Status(done.status), context, done)
        return pb.ExecuteBatchResponse(results=done, receipt=replica.receipt())

    async def FindOutcome(  # noqa: N802
        self, request: pb.FindOutcomeRequest, context: Context
    ) -> pb.FindOutcomeResponse:
        """Looks up the outcome of the write that had an idempotency key."""
        self._received["FindOutcome"].inc()
        try:
            token_id = operations.token_id(request.idempotency_key)
        except CommandError as error:
            await self._refuse_form(str(error), context)
        replica = await self._admit(context)
        await self._check_key(request.key, context)
        await self._confirm(replica, context)
        found = await self._look_up(replica, request.key, request.epoch, context, token_id)
        if found is None:
            return pb.FindOutcomeResponse(receipt=replica.receipt())
        (result,) = pipe.decode_results(found.value)
        told = operations.outcome_message(result)
        return pb.FindOutcomeResponse(found=True, result=told, receipt=replica.receipt())

    async def DeleteRange(  # noqa: N802
        self, request: pb.DeleteRangeRequest, context: Context
    ) -> pb.DeleteRangeResponse:
        """Deletes the keys of a range, in steps."""
        self._received["DeleteRange"].inc()
        replica = await self._admit(context)
        try:
            asked = range_deletion.RangeDeletion.of(request)
        except CommandError as error:
            await self._refuse_form(str(error), context)
        await self._confirm(replica, context)
        await self._move_clock(replica, context)
        try:
            done = await range_deletion.delete(replica, asked, partial(self._submit, replica, context))
        except OverloadedError:
            await self._refuse(replica, Status.OVERLOADED, context)
        except UnavailableError:
            await self._refuse(replica, Status.UNAVAILABLE, context)
        if isinstance(done, Status):
            await self._refuse(replica, done, context)
        return done

    async def Pipe(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.Batch], context: Context
    ) -> None:
        """Serves a stream of batches."""
        replica = await self._admit(context)
        observer = None if self._traces is None else RecordSpans(self._traces)
        session = PipeSession(replica, context, self._metrics, observer)
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
        replica = await self._admit(context)
        try:
            options = scan_stream.options_of(request)
        except scan_stream.ScanRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"INVALID: {error}", (("doug-code", "INVALID"),))
        if request.consistency != pb.CONSISTENCY_EVENTUAL:
            await self._confirm(replica, context, forward=request.forward)
            await self._move_clock(replica, context)
        else:
            await self._wait_until_fresh(replica, request, context)
        if not replica.driver.machine.created:
            await self._refuse(replica, Status.UNAVAILABLE, context)
        try:
            await scan_stream.send(replica, options, context.write, messages=request.messages)
        except OverloadedError:
            await self._refuse(replica, Status.OVERLOADED, context)
        except UnavailableError:
            await self._refuse(replica, Status.UNAVAILABLE, context)
        except scan_stream.ScanExpiredError as error:
            await context.abort(grpc.StatusCode.ABORTED, f"SCAN_EXPIRED: {error}", (("doug-code", "SCAN_EXPIRED"),))
        except BROKEN:
            return  # The client does not read on.

    async def Watch(  # type: ignore[override]  # noqa: N802
        self, request: pb.WatchRequest, context: Context
    ) -> None:
        """Sends changes as they are applied, for as long as the caller stays."""
        self._received["Watch"].inc()
        replica = await self._admit(context)
        if request.consistency == pb.CONSISTENCY_LINEARIZABLE:
            await self._confirm(replica, context)
        if not replica.serves_local_reads:
            await self._refuse(replica, Status.UNAVAILABLE, context)
        try:
            await watch_stream.send(replica, request, context.write)
        except watch_stream.WatchRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"INVALID: {error}", (("doug-code", "INVALID"),))
        except (watch_stream.FutureRevisionError, HistoryGoneError) as error:
            code = "HISTORY_GONE" if isinstance(error, HistoryGoneError) else "FUTURE_REVISION"
            oldest = ("doug-oldest", str(replica.watches.oldest))
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, f"{code}: {error}", (("doug-code", code), oldest))
        except OverloadedError:
            await self._refuse(replica, Status.OVERLOADED, context)
        except UnavailableError:
            await self._refuse(replica, Status.UNAVAILABLE, context)
        except BROKEN:
            return  # The client does not read on.

    async def Partitions(self, request: pb.PartitionsRequest, context: Context) -> pb.PartitionsResponse:  # noqa: N802
        """The partition map, from shard 0's leader, confirmed by a quorum."""
        self._received["Partitions"].inc()
        replica = await self._admit(context)
        if replica.number != 0:
            await self._refuse(replica, Status.WRONG_SHARD, context)
        await self._confirm(replica, context)
        partition_map = replica.driver.machine.partition_map()
        if partition_map is None:
            await self._refuse(replica, Status.UNAVAILABLE, context)
        ranges = [
            pb.SlotRange(**{"from": entry.first, "to": entry.last, "shard": entry.shard, "epoch": entry.epoch})
            for entry in partition_map.ranges
        ]
        return pb.PartitionsResponse(epoch=partition_map.epoch, slots=ranges, cluster_id=replica.peers.me.cluster_id)

    async def _look_up(
        self, replica: Replica, key: bytes, epoch: int, context: Context, token_id: bytes = b""
    ) -> StoredValue | None:
        """The applied value of a key, or with ``token_id`` the record of that token in the key's slot."""
        if not replica.driver.machine.created:
            await self._refuse(replica, Status.UNAVAILABLE, context)
        if not replica.driver.machine.owns(slot_of(key), epoch):
            await self._refuse(replica, Status.WRONG_SHARD, context)
        reader = replica.reader
        try:
            found = reader.get_token(key, token_id) if token_id else reader.get(key)
            return await reader.load(found) if isinstance(found, BlockNeeded) else found
        except UnavailableError:
            await self._refuse(replica, Status.UNAVAILABLE, context)

    async def _understand(
        self, name: str, understand: Callable[[_Request], Command], request: _Request, context: Context
    ) -> Command:
        """Counts a call and decodes its command; aborts a call that makes no sense."""
        self._received[name].inc()
        try:
            return understand(request)
        except CommandError as error:
            await self._refuse_form(str(error), context)

    async def _decide(self, command: Command, context: Context) -> tuple[Replica, ResultRecord]:
        """Has a command decided; fails the call if the command is not carried out."""
        replica = await self._admit(context)
        result = await self._submit(replica, context, command)
        if result.status != Status.OK:
            await self._refuse(replica, Status(result.status), context, result)
        return replica, result

    async def _submit(self, replica: Replica, context: Context, command: Command) -> ResultRecord:
        """Has a command decided, and returns its result."""
        encoded = commands.encode(*command)
        try:
            validate(encoded)
        except CommandError as error:
            await self._refuse_form(str(error), context)
        machine = replica.driver.machine
        if not replica.takes_requests or not machine.created:
            return ResultRecord(0, Status.NOT_LEADER, 0, b"", b"")
        if not machine.owns(slot_of(command.key), command.epoch):
            return ResultRecord(0, Status.WRONG_SHARD, 0, b"", b"")
        caller = None if self._traces is None else _caller(context)
        trace = None if self._traces is None or caller is None else self._traces.write(caller)
        sink = _FutureSink(trace)
        submission = Submission(sink, 0, commands.checksum(encoded), encoded)
        replica.driver.submit([submission if trace is None else TracedSubmission.of(submission, trace)])
        return await sink.result

    async def _await_clock(self, replica: Replica, context: Context) -> None:
        """Has the log clock moved up to now; see ``raft_node.runtime.reads.log_clock``."""
        moved: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def settle(done: bool) -> None:
            if not moved.done():
                moved.set_result(done)

        replica.driver.move_clock(settle)
        if not await moved:
            await self._refuse(replica, clock_stands(replica), context)

    async def _move_clock(self, replica: Replica, context: Context) -> None:
        """Makes sure that no value is seen that has expired by the leader's clock, though not yet by the log's.

        A node that follows has nothing to do: its leader did so before it confirmed the read.
        """
        if replica.is_leader and replica.driver.machine.may_be_due(replica.driver.now_us()):
            await self._await_clock(replica, context)

    async def _confirm(self, replica: Replica, context: Context, *, forward: bool = False) -> None:
        """Returns once a quorum has confirmed that this node leads, and all that it had committed is applied.

        With ``forward`` a node that follows has its leader confirmed instead.
        """
        confirmed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def settle(ok: bool) -> None:
            if not confirmed.done():
                confirmed.set_result(ok)

        replica.driver.read(settle, forward=forward)
        if not await confirmed:
            await self._refuse(replica, Status.NOT_LEADER, context)

    async def _wait_until_fresh(
        self, replica: Replica, request: pb.GetRequest | pb.ScanRequest, context: Context
    ) -> None:
        """Returns once this replica may serve a local read, and has applied or proven what the request asks for."""
        if not replica.serves_local_reads:
            await self._refuse(replica, Status.UNAVAILABLE, context)
        asked = (request.min_index, request.max_staleness_ms / 1000)
        if replica.freshness.serves(*asked):
            return
        fresh: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def settle(ok: bool) -> None:
            if not fresh.done():
                fresh.set_result(ok)

        replica.freshness.wait(*asked, settle)
        if not await fresh or not replica.serves_local_reads:
            await self._refuse(replica, Status.NOT_FRESH, context)

    async def _admit(self, context: Context) -> Replica:
        if self._replica is None:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE: the node is starting", (("doug-code", "UNAVAILABLE"),)
            )
        return self._replica

    async def _check_key(self, key: bytes, context: Context) -> None:
        if not 0 < len(key) <= commands.KEY_BYTES_MAX:
            await self._refuse_form(f"a key has 1 to {commands.KEY_BYTES_MAX} bytes, not {len(key)}", context)

    async def _refuse_form(self, why: str, context: Context) -> NoReturn:
        """Refuses a request that makes no sense."""
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"INVALID: {why}", (("doug-code", "INVALID"),))

    async def _refuse(
        self, replica: Replica, status: Status, context: Context, result: ResultRecord | None = None
    ) -> NoReturn:
        details = status.name
        metadata: tuple[tuple[str, str], ...] = (("doug-code", status.name), ("doug-shard", str(replica.number)))
        if status is Status.NOT_LEADER:
            leader = replica.leader()
            details = f"NOT_LEADER: the leader is {leader.id or 'not known'} {leader.address}".rstrip()
            metadata = (*metadata, ("doug-leader-id", leader.id), ("doug-leader-address", leader.address))
        elif result is not None and status is Status.PRECONDITION_FAILED:
            details = f"PRECONDITION_FAILED: the key has the revision {result.revision}"
            metadata = (*metadata, ("doug-revision", str(result.revision)))
        if result is not None and result.value:
            # Of a transaction: which of its operations failed.
            metadata = (*metadata, ("doug-operation", result.value.decode("ascii")))
        if result is not None and result.replayed:
            metadata = (*metadata, ("doug-replayed", "true"))
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
            content_encoding=found.content_encoding.decode("ascii"),
            expires_at_ms=found.expires_at_ms,
        )
