"""The first start of a shard: how its members agree on the one first configuration, before anybody votes.

Each member has a name from the settings and an incarnation that it drew at random. The lowest name gathers all of
them, which needs every initial member once, and writes the first configuration as entry 1 of term 1; the others fetch
exactly these bytes from whoever has them. Each syncs the entry before it takes part in anything. Shard 0's lowest name
also makes the cluster's id; the lowest name of every other shard learns it from shard 0.

Invariant: once entry 1 exists anywhere, no other entry 1 is ever made: only the lowest name makes one, and only after
every member has told that it holds none.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import NamedTuple

import grpc.aio

from doug.v1 import raft_pb2 as pb
from doug.v1 import raft_pb2_grpc as pb_grpc
from doug_wire.tls import Certificates
from raft_node import entry as entries
from raft_node.entry import Entry, EntryError, EntryKind
from raft_node.errors import IdentityError
from raft_node.observability.logs import get_logger
from raft_node.raft.configuration import decode_configuration, encode_configuration
from raft_node.raft.types import Configuration, NodeId
from raft_node.rpc.channels import Dialled, open_channel
from raft_node.settings import NodeSettings

FIRST_TERM = 1

_POLL_S = 0.1
_CALL_TIMEOUT_S = 0.5
_TELL_EVERY_S = 5.0

_log = get_logger()


class First(NamedTuple):
    """What a new member starts with."""

    cluster_id: str
    entry: Entry


def check_membership(configuration: Configuration, me: NodeId) -> None:
    """Makes sure that a configuration lists this very incarnation.

    Raises:
        IdentityError: It does not: this node's volumes were wiped, or it was never a member.
    """
    members = {member.name: member for member in (*configuration.voters, *configuration.learners)}
    known = members.get(me.name)
    if known == me:
        return
    if known is None:
        raise IdentityError(f"{me.name} is not a member of its shard, whose members are {', '.join(sorted(members))}")
    raise IdentityError(
        f"the shard knows {me.name} as incarnation {known.incarnation}, and these volumes are incarnation "
        f"{me.incarnation}: they were wiped or replaced. What the old ones had acknowledged may be lost, so this node "
        f"must not vote as {me.name}; admit the new incarnation as a learner: members replace {me.name}"
    )


class Bootstrap:
    """Finds or makes the first configuration of this member's shard."""

    def __init__(
        self, settings: NodeSettings, me: NodeId, cluster_id: str, certificates: Certificates | None = None
    ) -> None:
        """Prepares it.

        Args:
            settings: Who the first members are, and where shard 0 is.
            me: This member.
            cluster_id: The cluster's id if an earlier, interrupted start already knew it; empty otherwise.
            certificates: For the connections to the others; plaintext without.
        """
        self._settings = settings
        self._me = me
        self._cluster_id = cluster_id
        self._certificates = certificates
        self._told_at_s = 0.0

    async def run(self) -> First:
        """Returns once the first configuration is known.

        Raises:
            IdentityError: The shard exists already and does not know this incarnation.
        """
        peers = {name: a for name, a in self._settings.peer_addresses.items() if name != self._me.name}
        lowest = min(self._settings.peer_addresses) == self._me.name
        channels = {name: Dialled(address, self._certificates) for name, address in peers.items()}
        try:
            while True:
                answers = await self._ask(channels)
                for name, answer in answers.items():
                    if answer.first_configuration:
                        return self._adopt(name, answer)
                missing = sorted(set(peers) - set(answers))
                if lowest and not missing:
                    if self._cluster_id:
                        return self._make(self._cluster_id, answers)
                    # It may take long, so that the answers are old by then: everybody is asked again.
                    self._cluster_id = await self._find_cluster_id()
                    if self._cluster_id:
                        continue
                    missing = ["a member of shard 0"]
                self._tell(
                    missing if lowest else [f"the first configuration, made by {min(self._settings.peer_addresses)}"]
                )
                await asyncio.sleep(_POLL_S)
        finally:
            for channel in channels.values():
                await channel.close()

    def _tell(self, missing: list[str]) -> None:
        now_s = time.monotonic()
        if self._told_at_s == 0.0:
            self._told_at_s = now_s
        elif now_s - self._told_at_s > _TELL_EVERY_S:
            self._told_at_s = now_s
            _log.warning("bootstrap.waiting", waits_for=", ".join(missing))

    async def _ask(self, channels: Mapping[str, Dialled]) -> dict[str, pb.IdentifyResponse]:
        """Who of the given members answers, and what; answers of other members or shards do not count."""
        for dialled in channels.values():
            dialled.renew(_CALL_TIMEOUT_S)
        responses = await asyncio.gather(*(self._identify(dialled.channel) for dialled in channels.values()))
        answers = {}
        for name, response in zip(channels, responses, strict=True):
            if response is None:
                continue
            if response.member.name != name or response.shard != self._settings.shard_id:
                _log.warning("bootstrap.wrong_peer", expected=name, found=response.member.name, shard=response.shard)
                continue
            answers[name] = response
        return answers

    async def _identify(self, channel: grpc.aio.Channel) -> pb.IdentifyResponse | None:
        request = pb.IdentifyRequest(shard=self._settings.shard_id, sender=self._me.name)
        try:
            return await pb_grpc.RaftStub(channel).Identify(request, timeout=_CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            # It has not started yet, or is not to be reached; the next round asks again.
            return None

    async def _find_cluster_id(self) -> str:
        if self._settings.shard_id == 0:
            return secrets.token_hex(16)
        for address in self._settings.seed_addresses:
            channel = open_channel(address, self._certificates)
            try:
                answer = await self._identify(channel)
            finally:
                await channel.close()
            if answer is not None and answer.shard == 0 and answer.cluster_id:
                return answer.cluster_id.decode()
        return ""

    def _make(self, cluster_id: str, answers: Mapping[str, pb.IdentifyResponse]) -> First:
        others = (NodeId(name, answer.member.incarnation) for name, answer in answers.items())
        configuration = Configuration(voters=tuple(sorted([self._me, *others])))
        timestamp_us = time.time_ns() // 1000
        command = encode_configuration(configuration)
        entry = entries.encode(1, FIRST_TERM, EntryKind.CONFIGURATION, timestamp_us, command)
        _log.info("bootstrap.made", members=len(configuration.voters))
        return First(cluster_id, entry)

    def _adopt(self, source: str, answer: pb.IdentifyResponse) -> First:
        try:
            entry = entries.decode(answer.first_configuration)
        except EntryError as error:
            raise IdentityError(f"{source} told a first configuration that is damaged: {error}") from error
        if (entry.index, entry.term, entry.kind) != (1, FIRST_TERM, EntryKind.CONFIGURATION):
            raise IdentityError(f"{source} told a first configuration that is none")
        check_membership(decode_configuration(entry.command), self._me)
        return First(answer.cluster_id.decode(), entry)
