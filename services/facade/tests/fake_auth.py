"""The calls of a fake raft-node about who may do what, with the one tuple of its shard as their state."""

from __future__ import annotations

from typing import Any

import grpc

from doug.v1 import admin_pb2


class AuthCalls:
    """GetAuth and SetAuth of a leader."""

    @property
    def _held(self) -> Any:
        """The shard, whatever class of fake it is."""
        return getattr(self, "shard")  # noqa: B009 - the class beside this one has it, with its own type

    async def _wait_while_silent(self) -> None:
        raise NotImplementedError

    async def _refuse_members(self, context: Any) -> None:
        raise NotImplementedError

    async def GetAuth(self, request: Any, context: Any) -> admin_pb2.GetAuthResponse:  # noqa: N802
        await self._wait_while_silent()
        await self._refuse_members(context)
        revision, document = self._held.auth
        known = revision == request.known_revision
        return admin_pb2.GetAuthResponse(revision=revision, document=b"" if known else document)

    async def SetAuth(self, request: Any, context: Any) -> admin_pb2.SetAuthResponse:  # noqa: N802
        await self._wait_while_silent()
        await self._refuse_members(context)
        held = self._held.auth[0]
        if request.revision <= held if request.copy else request.expected_revision != held:
            await context.abort(grpc.StatusCode.ABORTED, "CHANGED: it is so", (("doug-code", "CHANGED"),))
        self._held.auth = (request.revision, request.document)
        return admin_pb2.SetAuthResponse(revision=request.revision)
