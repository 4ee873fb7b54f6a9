"""Reads and changes who may do what in a shard's replicated state; only the node that leads it changes it.

Must not know what the document says; ``doug_wire.auth`` does. Invariant: what is read includes every change that was
acknowledged before.
"""

from __future__ import annotations

import asyncio

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.pipe import Status
from raft_node.errors import ChangedError, NotLeaderError, OutcomeUnknownError, UnavailableError
from raft_node.kv.operations import access
from raft_node.kv.operations.access import Stored
from raft_node.kv.operations.work import Details
from raft_node.runtime.driver import Driver
from raft_node.runtime.writes.proposals import Submission


class _Sink:
    """Takes the outcome of a change into a future."""

    def __init__(self) -> None:
        self.result: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()

    def resolve(self, record_id: int, status: int, revision: int, details: Details | None = None) -> None:
        """See ``Sink``."""
        del record_id, details
        if not self.result.done():
            self.result.set_result((status, revision))


async def read(driver: Driver, *, forward: bool = False) -> Stored:
    """The document of users and rights that the shard holds.

    Args:
        driver: The driver, which confirms that this is what a quorum holds.
        forward: Whether a node that follows has its leader asked, and answers, too.

    Raises:
        NotLeaderError: Another node leads, or none.
        UnavailableError: The shard is not made yet.
    """
    confirmed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def settle(ok: bool) -> None:
        if not confirmed.done():
            confirmed.set_result(ok)

    driver.read(settle, forward=forward)
    if not await confirmed:
        raise NotLeaderError("", "")
    if not driver.machine.created:
        raise UnavailableError("the shard is being made")
    return driver.machine.auth


async def change(driver: Driver, stored: Stored, expected: int) -> int:
    """Changes the document that the shard holds; returns its revision.

    Args:
        driver: The driver, which proposes the change.
        stored: The new document.
        expected: The revision from which the new document was made, or ``access.COPY``.

    Raises:
        ChangedError: The shard holds another revision; nothing was changed.
        NotLeaderError: Another node leads, or none; nothing was changed.
        OutcomeUnknownError: Nobody can tell whether the document was changed.
        UnavailableError: The document cannot be changed now; nothing was changed.
    """
    if not driver.machine.created:
        raise UnavailableError("the shard is being made")
    value = access.encode_change(expected, stored.revision, stored.document)
    command = commands.encode(Opcode.SET_AUTH, b"", value=value)
    sink = _Sink()
    driver.submit([Submission(sink, 0, commands.checksum(command), command)])
    status, revision = await sink.result
    if status == Status.OK:
        return revision
    if status == Status.PRECONDITION_FAILED:
        raise ChangedError(revision)
    if status in (Status.NOT_LEADER, Status.NOT_APPLIED):
        raise NotLeaderError("", "")
    if status == Status.UNKNOWN:
        raise OutcomeUnknownError("nobody can tell whether the change will be applied")
    raise UnavailableError(f"the change was refused: {Status(status).name}")
