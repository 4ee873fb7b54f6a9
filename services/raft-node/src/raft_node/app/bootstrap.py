"""The first start of a shard: how its members agree on the one first configuration, before anybody votes.

Each member has a name from the settings and an incarnation that it drew at random. The lowest name gathers all of
them, which needs every initial member once, and writes the first configuration as entry 1 of term 1; the others fetch
exactly these bytes from whoever has them. Each syncs the entry before it takes part in anything. Shard 0's lowest name
also makes the cluster's id; the lowest name of every other shard learns it from shard 0.

A node that starts later, or with a new disk, is not in the first configuration. It starts without a log, as no member
of anything, and waits to be admitted.

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
from doug_wire.tls import Certificates
from raft_node import entry as entries
from raft_node.entry import Entry, EntryError, EntryKind
from raft_node.errors import IdentityError
from raft_node.observability.logs import get_logger
from raft_node.raft.configuration import decode_configuration, encode_configuration
from raft_node.raft.membership import members_of
from raft_node.raft.types import Configuration, NodeId
from raft_node.rpc.channels import Dialled, open_channel
from raft_node.rpc.raft.identify import ask
from raft_node.settings import NodeSettings

FIRST_TERM = 1

_POLL_S = 0.1
_CALL_TIMEOUT_S = 0.5
_CALL_TIMEOUT_MAX_S = 4.0
"""The longest time for a call, which grows from round to round: looking a name up alone may take a second."""
_TELL_EVERY_S = 5.0

_log = get_logger()


class First(NamedTuple):
    """The cluster's id and the first entry of a new node; without an entry the shard's leader has to admit it."""

    cluster_id: str
    entry: Entry | None


class Bootstrap:
    """Finds or makes the first configuration of this member's shard."""

    def __init__(
        self, settings: NodeSettings, me: NodeId, cluster_id: str, certificates: Certificates | None = None
    ) -> None:
        """Takes the settings, and asks nobody yet.

        Args:
            settings: The settings, which name the first members and the nodes of shard 0.
            me: This member.
            cluster_id: The cluster's id if an earlier, interrupted start already knew it; empty otherwise.
            certificates: The certificates for connections to other nodes; None for plaintext.
        """
        self._settings = settings
        self._me = me
        self._cluster_id = cluster_id
        self._certificates = certificates
        self._told_at_s = 0.0
        self._timeout_s = _CALL_TIMEOUT_S

    async def run(self) -> First:
        """Returns once the first configuration is known.

        Raises:
            IdentityError: The shard exists already in another cluster, or its answer is damaged.
        """
        peers = {name: a for name, a in self._settings.peer_addresses.items() if name != self._me.name}
        lowest = min(self._settings.peer_addresses) == self._me.name
        channels = {name: Dialled(address, self._certificates) for name, address in peers.items()}
        try:
            while True:
                answers = await self._ask(channels)
                for name, answer in answers.items():
                    if answer.first_configuration or answer.standing != pb.STANDING_UNKNOWN:
                        return self._adopt(name, answer)
                missing = sorted(set(peers) - set(answers))
                if lowest and not missing:
                    if self._cluster_id:
                        return self._make(self._cluster_id, answers)
                    # This may take long, so that the answers are old by then: all members are asked again.
                    self._cluster_id = await self._find_cluster_id()
                    if self._cluster_id:
                        continue
                    missing = ["a member of shard 0"]
                self._tell(
                    missing if lowest else [f"the first configuration, made by {min(self._settings.peer_addresses)}"]
                )
                self._timeout_s = min(_CALL_TIMEOUT_MAX_S, 2 * self._timeout_s)
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
            _log.warning("bootstrap.waiting", waits_for=", ".join(missing), incarnation=self._me.incarnation)

    async def _ask(self, channels: Mapping[str, Dialled]) -> dict[str, pb.IdentifyResponse]:
        """The answers of the given members by name; answers of other members or shards do not count."""
        for dialled in channels.values():
            dialled.renew(self._timeout_s)
        responses = await asyncio.gather(*(self._identify(dialled.channel) for dialled in channels.values()))
        answers = {}
        for name, response in zip(channels, responses, strict=True):
            if response is None:
                channels[name].lost()
                continue
            if response.member.name != name or response.shard != self._settings.shard_id:
                _log.warning("bootstrap.wrong_peer", expected=name, found=response.member.name, shard=response.shard)
                continue
            answers[name] = response
        return answers

    async def _identify(self, channel: grpc.aio.Channel) -> pb.IdentifyResponse | None:
        return await ask(channel, self._settings.shard_id, self._me, self._timeout_s)

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
        cluster_id = answer.cluster_id.decode()
        if self._cluster_id not in ("", cluster_id):
            raise IdentityError(
                f"this disk belongs to the cluster {self._cluster_id}, and {source} to {cluster_id}: use an empty disk"
            )
        if not answer.first_configuration:
            # The shard was created without this node, which must be admitted.
            return First(cluster_id, None)
        try:
            entry = entries.decode(answer.first_configuration)
        except EntryError as error:
            raise IdentityError(f"{source} told a first configuration that is damaged: {error}") from error
        if (entry.index, entry.term, entry.kind) != (1, FIRST_TERM, EntryKind.CONFIGURATION):
            raise IdentityError(f"{source} told a first configuration that is none")
        known = decode_configuration(entry.command)
        return First(cluster_id, entry if self._me in members_of(known) else None)
