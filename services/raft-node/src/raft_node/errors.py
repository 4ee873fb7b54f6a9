"""Every operating error of a raft-node.

::

    DougError
    +-- RefusedError            the operation was certainly not applied
    |   +-- NotLeaderError          another node leads, or none is known
    |   +-- WrongShardError         the key's slot is not this shard's, or the epoch is outdated
    |   +-- OverloadedError         too much is waiting; nothing was proposed
    |   +-- SupersededError         another leader's entry took its place in the log
    |   +-- TransferRefusedError    leadership cannot go to that member
    |   |   +-- AlreadyLeaderError      it leads already
    |   |   +-- UnknownMemberError      no member of the shard has that name
    |   +-- ConfigurationRefusedError  the members cannot be changed so, or not now
    |   |   +-- ChangeUnderWayError     another change comes first, or leadership is moving
    |   |   +-- LastVoterError          the shard would have no voter left
    |   |   +-- QuorumAtRiskError       those that stay could not form a quorum now
    |   |   +-- NoSuchMemberError       no member, or no address of it is known
    |   |   +-- AlreadyMemberError      it is a member, under this incarnation or another
    |   |   +-- UnreachableError        nobody answers at the address
    |   |   +-- WrongNodeError          somebody else does
    |   +-- ChangedError            what a change was made from is not there any more
    |   +-- RecoveryRefusedError    a lost quorum cannot be recovered so
    |   +-- RestoreRefusedError     a backup cannot be restored there, or not so
    |   +-- InvalidCommandError     the bytes are not a command that a client may send
    +-- TransferFailedError     leadership was to be handed over, and nobody took it in time
    +-- NoSpaceError            a disk is full; nothing was changed, and it can be tried again
    +-- OutcomeUnknownError     it was proposed; it may or may not be applied later
    +-- UnavailableError        a read could not be served here and now; nothing was changed
    +-- FatalError              this node must stop
        +-- CorruptionError         a file does not hold what was written
        +-- DiskError               a write, fsync or rename failed
        +-- IdentityError           a volume belongs to another node, or was wiped
        +-- SettingsError           the settings contradict each other or the data

An operating error carries fields. A programmer error is an ``assert`` and ends the process.
"""

from __future__ import annotations

import errno

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class DougError(Exception):
    """The root of the operating errors of a node."""


class RefusedError(DougError):
    """The operation was certainly not applied."""


class NotLeaderError(RefusedError):
    """Another node leads, or none is known.

    Attributes:
        leader_id: The leader's name, empty when none is known.
        leader_address: The leader's Doug address, empty when it is not known.
    """

    def __init__(self, leader_id: str = "", leader_address: str = "") -> None:
        super().__init__(f"not the leader; the leader is {leader_id or 'not known'} {leader_address}".rstrip())
        self.leader_id = leader_id
        self.leader_address = leader_address


class ChangedError(RefusedError):
    """The revision from which a change was made is not the present one.

    Attributes:
        revision: The present revision.
    """

    def __init__(self, revision: int) -> None:
        super().__init__(f"it has changed meanwhile; its revision is {revision}")
        self.revision = revision


class WrongShardError(RefusedError):
    """The key's slot is not this shard's, or the sender's epoch of it is outdated."""

    def __init__(self, slot: int, epoch: int) -> None:
        super().__init__(f"slot {slot} at epoch {epoch} is not served by this shard")
        self.slot = slot
        self.epoch = epoch


class OverloadedError(RefusedError):
    """Too much is waiting; nothing was proposed."""


class SupersededError(RefusedError):
    """Another leader's entry took the place of this one in the log."""


class TransferRefusedError(RefusedError):
    """Leadership cannot go to the member that was named. The leader goes on as before."""


class AlreadyLeaderError(TransferRefusedError):
    """The member that was to take over leads already."""


class UnknownMemberError(TransferRefusedError):
    """No member of the shard has that name."""


class ConfigurationRefusedError(RefusedError):
    """The members cannot be changed so, or not now. Nothing was appended."""


class RecoveryRefusedError(RefusedError):
    """A lost quorum cannot be recovered so. No file was changed."""


class RestoreRefusedError(RefusedError):
    """A backup cannot be restored there, or not so. No file was changed."""


class ChangeUnderWayError(ConfigurationRefusedError):
    """Another change comes first, or leadership is moving: it may be asked for again in a moment."""


class LastVoterError(ConfigurationRefusedError):
    """The shard would have no voter left."""


class QuorumAtRiskError(ConfigurationRefusedError):
    """The voters that stay could not form a quorum now."""


class NoSuchMemberError(ConfigurationRefusedError):
    """No member has that name, or nobody knows where it is."""


class AlreadyMemberError(ConfigurationRefusedError):
    """A node of that name is a member, under this incarnation or another."""


class UnreachableError(ConfigurationRefusedError):
    """No node answers at the address of the node that is to be admitted."""


class WrongNodeError(ConfigurationRefusedError):
    """Another node answers at the address, or the address contradicts the settings."""


class InvalidCommandError(RefusedError):
    """The bytes are not a command that a client may send."""


class TransferFailedError(DougError):
    """Leadership was to be handed over, and no node was seen to take it in time. It may still move later."""


class NoSpaceError(DougError):
    """A disk is full. Certainly nothing that counts was changed, and the operation can be tried again.

    Attributes:
        path: The file that was to be written.
    """

    def __init__(self, path: str) -> None:
        super().__init__(f"{path}: no space is left")
        self.path = path


class OutcomeUnknownError(DougError):
    """A command was proposed, and may or may not be applied later."""


class UnavailableError(DougError):
    """A read could not be served here and now; nothing was changed."""


class FatalError(DougError):
    """This node must stop."""


class CorruptionError(FatalError):
    """A file is not what was written. It is left as it is.

    Attributes:
        path: The damaged file.
        offset: The offset of the damaged part, in bytes.
        what: The part of the file that does not fit.
    """

    def __init__(self, path: str, offset: int, what: str) -> None:
        super().__init__(f"{path}: damaged at offset {offset}: {what}")
        self.path = path
        self.offset = offset
        self.what = what


class DiskError(FatalError):
    """A write, fsync or rename failed. The content of the disk is not known any more.

    Attributes:
        path: The file or directory.
        operation: The operation that was tried.
    """

    def __init__(self, path: str, operation: str, cause: OSError) -> None:
        super().__init__(f"{path}: {operation} failed: {cause.strerror or cause}")
        self.path = path
        self.operation = operation
        self.errno = cause.errno

    @property
    def no_space(self) -> bool:
        """Whether the operation failed because the disk is full; never so for a sync, which is not forgiven."""
        return self.errno in _NO_SPACE and not self.operation.startswith("sync")


class IdentityError(FatalError):
    """A volume belongs to another node, cluster or shard, or was wiped."""


class SettingsError(FatalError):
    """The settings contradict each other or the data."""
