"""Fake raft-nodes that answer over real gRPC as their contract says, and faults that a test sets or scripts.

A fake shard has one dict as its replicated state, and a leader that the test names. Fakes, not mocks: what they say
follows from their state.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import xxhash
from crc32c import crc32c
from fake_auth import AuthCalls
from fake_events import EventCalls
from fake_store import Entry, FakeStore, keys_of
from free_ports import free_port

from doug.v1 import admin_pb2, admin_pb2_grpc, doug_pb2, doug_pb2_grpc
from doug_wire import command, pipe, scan, slots
from doug_wire.on_behalf import Behalf, read
from doug_wire.pipe import Status
from doug_wire.validity import validate
from doug_wire.watch import encode_change


class FakeShard:
    """The replicated state of one shard."""

    def __init__(self, shard_id: int, shards: int) -> None:
        self.cluster_id = b"c" * 16
        self.id = shard_id
        self.store = FakeStore()
        self.term = 1
        self.leader: FakeNode | None = None
        self.nodes: list[FakeNode] = []
        self.learners: list[FakeNode] = []
        self.ranges = [(first, last, shard, 1) for first, last, shard in slots.initial_ranges(shards)]
        self.map_epoch = 1
        self.auth = (0, b"")
        """The revision and the bytes of who may do what."""

    @property
    def data(self) -> dict[bytes, Entry]:
        return self.store.data

    @property
    def revision(self) -> int:
        return self.store.revision

    @revision.setter
    def revision(self, revision: int) -> None:
        self.store.revision = revision

    def owns(self, key: bytes, epoch: int) -> bool:
        slot = slots.slot_of(key)
        return any(
            first <= slot <= last and shard == self.id and epoch in (0, slot_epoch)
            for first, last, shard, slot_epoch in self.ranges
        )


class FakeNode(AuthCalls, EventCalls, doug_pb2_grpc.DougServicer, admin_pb2_grpc.AdminServicer):
    """One raft-node. Its faults are attributes that a test sets."""

    no_slots = False
    """Whether it is of a version that does not know how to look for a slot."""
    scans_open = 0
    """How many scans are under way."""

    def __init__(self, shard: FakeShard, number: int, port: int) -> None:
        super().__init__()
        self.shard = shard
        self.id = f"shard-{shard.id}-{number}"
        self.address = f"127.0.0.1:{port}"
        self.incarnation = 0
        """Of its disk; 0 for one that it does not tell."""
        self.silent = False
        """Takes batches and calls, and never answers."""
        self.hints = True
        """Whether it tells who leads."""
        self.script: deque[Status] = deque()
        """What it answers to the next records, whatever they are."""
        self.break_on_batch = False
        """Applies the next batch, then ends the stream without an answer."""
        self.batches: list[tuple[int, int]] = []
        """(kind, items) of every batch received."""
        self.raw: list[doug_pb2.Batch] = []
        """The newest batches received."""
        self.transfer_code = ""
        """The ``doug-code`` with which it refuses to hand leadership over."""
        self.transfer_breaks = False
        """Hands over, and then ends the call without an answer."""
        self.transfers: list[str] = []
        """The targets it was asked to hand over to."""
        self.member_code = ""
        """The ``doug-code`` with which it refuses to tell or change members."""
        self.member_breaks = False
        """Changes members, and then ends the call without an answer."""
        self.member_calls: list[Any] = []
        self.behalves: list[Behalf] = []
        """The changes of members that it was asked for."""
        self.files = {"CHECKPOINT": b"c" * 700, "000001.sst": b"s" * 512, "000002.sst": b"t" * 1300}
        """Its state, as a backup gets it."""
        self.backup_fault = ""
        """What goes wrong with a backup: refuse, break, damage, shorten, foreign, name."""
        self.backups = 0
        """How often it was asked for one."""
        self.backups_open = 0
        """How many are under way."""
        self.scans: list[doug_pb2.ScanRequest] = []
        """The scans that it was asked for."""
        self.scan_code = ""
        """The ``doug-code`` with which it refuses scans."""
        self.scan_pages_until_break = -1
        """After so many pages the scan under way expires, once; never when negative."""
        self.scan_pages = 0
        """How many pages it has made."""
        self.page_records = 3
        """How many records are in a page."""
        self.watches: list[doug_pb2.WatchRequest] = []
        """The watches that it was asked for."""
        self.watches_open = 0
        """How many are open."""
        self.watch_code = ""
        """The ``doug-code`` with which it refuses watches, and ends those that are open."""
        self.history_floor = 0
        """It holds the changes behind this revision."""
        self.lag = 0
        """So many of the newest changes it has not applied yet."""
        self.applied_index = 7
        self.log_index = 7  # As its answers tell it.
        self.generation = 0
        self.staleness_ms: int | None = None  # As far as it can prove it.
        self.vitals, self.timings = admin_pb2.Vitals(), doug_pb2.Timings()
        """How it is, and where its time goes, by its own word."""
        self.zone = ""
        self.statuses = self.asked_for_members = 0
        """How often it was asked for its status."""
        self.server: grpc.aio.Server | None = None

    @property
    def traces(self) -> list[bytes]:
        """The trace contexts of the newest batches."""
        return [batch.traces for batch in self.raw]

    async def start(self) -> None:
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 8 << 20)])
        doug_pb2_grpc.add_DougServicer_to_server(self, self.server)
        admin_pb2_grpc.add_AdminServicer_to_server(self, self.server)
        self.server.add_insecure_port(self.address)
        await self.server.start()

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop(0)
            self.server = None

    @property
    def leads(self) -> bool:
        return self.shard.leader is self

    def lead(self) -> None:
        """Wins an election."""
        self.shard.term += 1
        self.shard.leader = self

    def _known_leader(self) -> tuple[str, str]:
        leader = self.shard.leader
        return (leader.id, leader.address) if leader is not None and self.hints else ("", "")

    async def _wait_while_silent(self) -> None:
        while self.silent:
            await asyncio.sleep(0.01)

    async def Status(self, request: Any, context: Any) -> admin_pb2.StatusResponse:  # noqa: N802
        self.statuses += 1
        await self._wait_while_silent()
        leader_id, leader_address = self._known_leader()
        vitals = admin_pb2.Vitals(clock_us=time.time_ns() // 1000)
        vitals.MergeFrom(self.vitals)
        return admin_pb2.StatusResponse(
            vitals=vitals if request.vitals else None,
            version="0.1.0",
            node_id=self.id,
            shard=self.shard.id,
            role="leader" if self.leads else "follower",
            term=self.shard.term,
            commit_index=7,
            applied_index=self.applied_index,
            last_log_index=8,
            leader_id=leader_id,
            leader_address=leader_address,
            client_address=self.address,
            admin_address="127.0.0.1:27099",
            incarnation=self.incarnation,
        )

    async def Drain(self, request: Any, context: Any) -> admin_pb2.DrainResponse:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the facade has no use for it")
        raise AssertionError

    async def TransferLeadership(  # noqa: N802
        self, request: Any, context: Any
    ) -> admin_pb2.TransferLeadershipResponse:
        await self._wait_while_silent()
        self.transfers.append(request.target)
        self.behalves.append(read(context.invocation_metadata() or ()))
        code = self.transfer_code or self._transfer_refusal(request.target)
        if code:
            leader_id, leader_address = self._known_leader()
            hints = (("doug-leader-id", leader_id), ("doug-leader-address", leader_address))
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT if code == "UNKNOWN_MEMBER" else grpc.StatusCode.FAILED_PRECONDITION,
                f"{code}: it is so",
                (("doug-code", code), *hints),
            )
        others = [node for node in self.shard.nodes if node is not self and request.target in ("", node.id)]
        others[0].lead()
        if self.transfer_breaks:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        return admin_pb2.TransferLeadershipResponse(
            leader_id=others[0].id, leader_address=others[0].address, term=self.shard.term
        )

    def _transfer_refusal(self, target: str) -> str:
        if not self.leads:
            return "NOT_LEADER"
        if target == self.id:
            return "ALREADY_LEADER"
        known = {node.id for node in self.shard.nodes}
        return "UNKNOWN_MEMBER" if target and target not in known else ""

    async def Members(self, request: Any, context: Any) -> admin_pb2.MembersResponse:  # noqa: N802
        self.asked_for_members += 1
        await self._wait_while_silent()
        await self._refuse_members(context)
        members = [
            admin_pb2.ShardMember(
                name=node.id,
                incarnation=(1 << 62) + number,
                role="voter" if node in self.shard.nodes else "learner",
                leader=node.leads,
                address=f"raft-{node.id}:1",
                client_address=node.address,
                match_index=8,
                lag=0,
                state="" if node.leads else "replicate",
                healthy=True,
            )
            for number, node in enumerate([*self.shard.nodes, *self.shard.learners])
        ]
        return admin_pb2.MembersResponse(
            term=self.shard.term, commit_index=7, last_log_index=8, changing=False, members=members
        )

    async def AddMember(self, request: Any, context: Any) -> admin_pb2.ChangeMembersResponse:  # noqa: N802
        return await self._change_members(request, context)

    async def RemoveMember(self, request: Any, context: Any) -> admin_pb2.ChangeMembersResponse:  # noqa: N802
        return await self._change_members(request, context)

    async def ReplaceMember(self, request: Any, context: Any) -> admin_pb2.ChangeMembersResponse:  # noqa: N802
        return await self._change_members(request, context)

    async def _change_members(self, request: Any, context: Any) -> admin_pb2.ChangeMembersResponse:
        await self._wait_while_silent()
        self.member_calls.append(request)
        self.behalves.append(read(context.invocation_metadata() or ()))
        await self._refuse_members(context)
        if self.member_breaks:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        replaced = 6 if isinstance(request, admin_pb2.ReplaceMemberRequest) else 0
        return admin_pb2.ChangeMembersResponse(
            name=request.name, incarnation=(1 << 62) + 1, removed_incarnation=replaced, index=9, term=self.shard.term
        )

    async def _refuse_members(self, context: Any) -> None:
        code = self.member_code or ("" if self.leads else "NOT_LEADER")
        if code:
            leader_id, leader_address = self._known_leader()
            hints = (("doug-leader-id", leader_id), ("doug-leader-address", leader_address))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{code}: it is so", (("doug-code", code), *hints))

    async def Backup(self, request: Any, context: Any) -> AsyncIterator[admin_pb2.BackupResponse]:  # noqa: N802
        self.backups += 1
        self.backups_open += 1
        try:
            await self._wait_while_silent()
            if self.backup_fault == "refuse":
                await context.abort(
                    grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE: it is so", (("doug-code", "UNAVAILABLE"),)
                )
            yield admin_pb2.BackupResponse(header=self._backup_header())
            for number, content in enumerate(self.files.values()):
                for offset in range(0, len(content), 300):
                    if self.backup_fault == "break" and number == 2:
                        await context.abort(grpc.StatusCode.UNAVAILABLE, "the disk is gone")
                    if self.backup_fault == "shorten" and number == 2:
                        return
                    data = content[offset : offset + 300]
                    crc = crc32c(data) ^ (self.backup_fault == "damage" and number == 1)
                    chunk = admin_pb2.BackupChunk(file=number, offset=offset, data=data, crc32c=crc)
                    yield admin_pb2.BackupResponse(chunk=chunk)
        finally:
            self.backups_open -= 1

    def _backup_header(self) -> admin_pb2.BackupHeader:
        files = [
            admin_pb2.BackupFile(name=name, size_bytes=len(content), xxh3=xxhash.xxh3_64_intdigest(content))
            for name, content in self.files.items()
        ]
        if self.backup_fault == "name":
            files[1].name = "../000001.sst"
        return admin_pb2.BackupHeader(
            node_id=self.id,
            shard=9 if self.backup_fault == "foreign" else self.shard.id,
            cluster_id=b"c0ffee",
            initial_shards=1,
            index=40,
            term=4,
            log_time_us=1_700_000_000_000_000,
            voters=[node.id for node in self.shard.nodes],
            files=files,
            version="0.1.0",
        )

    async def Partitions(self, request: Any, context: Any) -> doug_pb2.PartitionsResponse:  # noqa: N802
        await self._wait_while_silent()
        if not self.leads:
            leader_id, leader_address = self._known_leader()
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                "not the leader",
                (("doug-code", "NOT_LEADER"), ("doug-leader-id", leader_id), ("doug-leader-address", leader_address)),
            )
        answer = doug_pb2.PartitionsResponse(epoch=self.shard.map_epoch, cluster_id=self.shard.cluster_id)
        for first, last, shard, epoch in self.shard.ranges:
            answer.slots.append(doug_pb2.SlotRange(**{"from": first}, to=last, shard=shard, epoch=epoch))
        return answer

    async def Get(self, request: Any, context: Any) -> doug_pb2.GetResponse:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the facade has no use for it")
        raise AssertionError

    async def Put(self, request: Any, context: Any) -> doug_pb2.PutResponse:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the facade has no use for it")
        raise AssertionError

    async def Delete(self, request: Any, context: Any) -> doug_pb2.DeleteResponse:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the facade has no use for it")
        raise AssertionError

    async def Scan(self, request: Any, context: Any) -> AsyncIterator[doug_pb2.ScanPage]:  # noqa: N802
        self.scans_open += 1
        try:
            async for page in self._pages(request, context):
                yield page
        finally:
            self.scans_open -= 1

    async def _pages(self, request: Any, context: Any) -> AsyncIterator[doug_pb2.ScanPage]:
        self.scans.append(request)
        await self._wait_while_silent()
        if self.scan_code:
            await context.abort(
                grpc.StatusCode.ABORTED, f"{self.scan_code}: so it is", (("doug-code", self.scan_code),)
            )
        if request.consistency != doug_pb2.CONSISTENCY_EVENTUAL and not self.leads:
            leader_id, leader_address = self._known_leader()
            hints = (("doug-leader-id", leader_id), ("doug-leader-address", leader_address))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it is so", (("doug-code", "NOT_LEADER"), *hints))
        shard = self.shard
        if not self._is_fresh(request.min_index, request.max_staleness_ms):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "it is so", (("doug-code", "NOT_FRESH"),))
        # Copied before the first page leaves: what comes later does not count.
        records = list(self._scanned(request))
        yield doug_pb2.ScanPage(
            revision=shard.store.revision,
            receipt=self._receipt(),
            slots=[
                doug_pb2.SlotRange(**{"from": first}, to=last, shard=owner, epoch=epoch)
                for first, last, owner, epoch in shard.ranges
                if owner == shard.id
            ],
        )
        limit = request.limit or len(records)
        size = self.page_records
        wanted = records[:limit]
        for first in range(0, len(wanted), size):
            if self.scan_pages_until_break == 0:
                self.scan_pages_until_break = -1
                self.log_index += 3  # The shard goes on meanwhile.
                await context.abort(grpc.StatusCode.ABORTED, "SCAN_EXPIRED: it is so", (("doug-code", "SCAN_EXPIRED"),))
            self.scan_pages_until_break -= 1
            part = wanted[first : first + size]
            self.scan_pages += 1
            yield doug_pb2.ScanPage(records=b"" if request.count_only else b"".join(part), count=len(part))
        yield doug_pb2.ScanPage(last=True, limited=len(records) >= limit > 0)

    def _scanned(self, request: doug_pb2.ScanRequest) -> Iterator[bytes]:
        shard = self.shard
        seen = set()
        for key in sorted(shard.data, reverse=request.reverse):
            if key < request.start or (request.end and key >= request.end) or not shard.owns(key, 0):
                continue
            if request.HasField("slot") and slots.slot_of(key) != request.slot and not self.no_slots:
                continue
            value, content_type, revision, expires_at_ms, encoding = shard.data[key]
            at = key.find(request.delimiter, request.prefix_bytes) if request.delimiter else -1
            if at < 0:
                shown = b"" if request.keys_only else value
                yield scan.encode_entry(key, revision, shown, content_type, encoding, expires_at_ms)
                continue
            prefix = key[: at + len(request.delimiter)]
            if prefix not in seen:
                seen.add(prefix)
                yield scan.encode_prefix(prefix)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[doug_pb2.WatchBatch]:  # noqa: N802
        self.watches.append(request)
        store = self.shard.store
        if request.consistency == doug_pb2.CONSISTENCY_LINEARIZABLE and not self.leads:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER", (("doug-code", "NOT_LEADER"),))
        after = self._revision() if request.now else request.after
        place = request.after_place
        self.watches_open += 1
        try:
            told = doug_pb2.WatchBatch(
                revision=min(after - 1 if place else after, self._revision()),
                oldest=self.history_floor,
                receipt=self._receipt(),
                cluster_id=self.shard.cluster_id,
                applied_index=self._told_entry(after),
            )
            await self._check_watch(after, place, context)
            yield told
            idle = 0
            while True:
                await self._check_watch(after, place, context)
                found = [
                    change
                    for change in store.changes
                    if change.revision <= self._revision()
                    and (change.revision > after or (place and change.revision == after and change.place >= place))
                ][: self.page_records]
                if not found:
                    await asyncio.sleep(0.002)
                    idle += 1
                    if idle % 50 == 0:
                        yield doug_pb2.WatchBatch(
                            revision=min(after, self._revision()),
                            oldest=self.history_floor,
                            applied_index=self._told_entry(after),
                        )
                    continue
                after, place = found[-1].revision, 0
                kinds = set(request.kinds) or {1, 2, 3}
                wanted = [
                    change._replace(value=b"") if request.keys_only else change
                    for change in found
                    if change.kind in kinds
                    and change.key >= request.start
                    and (not request.end or change.key < request.end)
                ]
                records = b"".join(map(encode_change, wanted))
                yield doug_pb2.WatchBatch(
                    records=records,
                    revision=after,
                    oldest=self.history_floor,
                    applied_index=self._told_entry(after),
                )
        finally:
            self.watches_open -= 1

    def _told_entry(self, after: int) -> int:
        return self.log_index if after >= self._revision() else 0

    def _revision(self) -> int:
        return self.shard.store.revision - self.lag

    async def _check_watch(self, after: int, place: int, context: Any) -> None:
        code, status = self.watch_code, grpc.StatusCode.UNAVAILABLE
        if not code and (after - 1 if place else after) < self.history_floor:
            code, status = "HISTORY_GONE", grpc.StatusCode.OUT_OF_RANGE
        if code:
            await context.abort(status, code, (("doug-code", code), ("doug-oldest", str(self.history_floor))))

    async def Pipe(self, request_iterator: Any, context: Any) -> AsyncIterator[doug_pb2.BatchResult]:  # noqa: N802
        async for batch in request_iterator:
            writes = batch.kind == doug_pb2.BATCH_KIND_WRITE
            records = list(pipe.decode_writes(batch.records) if writes else pipe.decode_reads(batch.records))
            self.batches.append((batch.kind, len(records)))
            self.raw = [*self.raw[-99:], batch]
            await self._wait_while_silent()
            answers = [self._answer(batch, record) for record in records]
            if self.break_on_batch:
                self.break_on_batch = False
                return
            leader_id, leader_address = self._known_leader()
            for results in _pieces(answers):
                yield doug_pb2.BatchResult(
                    results=results,
                    leader_id=leader_id,
                    leader_address=leader_address,
                    receipt=self._receipt(),
                    timings=self.timings if batch.timed else None,
                )

    def _receipt(self) -> doug_pb2.Receipt:
        told: dict[str, Any] = {
            "node_id": self.id,
            "shard": self.shard.id,
            "term": self.shard.term,
            "applied_index": self.log_index,
            "generation": self.generation,
        }
        role = "leader" if self.leads else "follower"
        return doug_pb2.Receipt(**told, role=role, staleness_ms=self.staleness_ms, zone=self.zone)

    def _is_fresh(self, min_index: int, bound_ms: int) -> bool:
        if min_index > self.log_index:
            return False
        return not bound_ms or (self.staleness_ms is not None and self.staleness_ms <= bound_ms)

    def _answer(self, batch: doug_pb2.Batch, record: Any) -> bytes:
        if self.script:
            return pipe.encode_result(record.id, self.script.popleft())
        local = batch.kind in (doug_pb2.BATCH_KIND_READ_LOCAL, doug_pb2.BATCH_KIND_READ_FRESH)
        if not local and not self.leads and not batch.forward:
            return pipe.encode_result(record.id, Status.NOT_LEADER)
        if batch.kind == doug_pb2.BATCH_KIND_WRITE:
            return self._write(record)
        if not self.shard.owns(record.key, record.epoch):
            return pipe.encode_result(record.id, Status.WRONG_SHARD)
        if local and not self._is_fresh(record.min_index, record.bound_ms):
            return pipe.encode_result(record.id, Status.NOT_FRESH)
        store = self.shard.store
        found = store.look_up(record.token) if record.token else store.get(record.key)
        return pipe.encode_result(*found._replace(id=record.id))

    def _write(self, record: pipe.WriteRecord) -> bytes:
        assert command.checksum(record.command) == record.crc
        try:
            decoded = validate(record.command)
        except command.CommandError:
            return pipe.encode_result(record.id, Status.INVALID)
        if not all(self.shard.owns(key, decoded.epoch) for key in keys_of(decoded)):
            return pipe.encode_result(record.id, Status.WRONG_SHARD)
        return pipe.encode_result(*self.shard.store.apply(decoded)._replace(id=record.id))


def _pieces(answers: list[bytes]) -> list[bytes]:
    """Answers of a batch, as much in a message as it may hold."""
    pieces = [b""]
    for answer in answers:
        if len(pieces[-1]) + len(answer) > pipe.GRPC_MESSAGE_BYTES_MAX // 2:
            pieces.append(b"")
        pieces[-1] += answer
    return pieces


class FakeCluster:
    """Fake shards, and a facade in front of them."""

    def __init__(self, shards: int, nodes: int) -> None:
        self.shards = [FakeShard(number, shards) for number in range(shards)]
        for shard in self.shards:
            shard.nodes = [FakeNode(shard, number, free_port()) for number in range(nodes)]  # type: ignore[abstract]  # The facade calls no others.
            shard.leader = shard.nodes[0]

    async def start(self) -> None:
        for shard in self.shards:
            for node in shard.nodes:
                await node.start()

    async def stop(self) -> None:
        await asyncio.gather(*(node.stop() for shard in self.shards for node in shard.nodes))

    def addresses(self) -> dict[int, dict[str, str]]:
        return {shard.id: {node.id: node.address for node in shard.nodes} for shard in self.shards}

    def set_map(self, ranges: list[tuple[int, int, int, int]], epoch: int) -> None:
        for shard in self.shards:
            shard.ranges, shard.map_epoch = ranges, epoch
