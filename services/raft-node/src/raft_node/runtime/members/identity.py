"""The identity of a node: its name, and the incarnation that both of its volumes were given at their first start.

Invariants:
1. The identity file is durable on both volumes before the node says its incarnation to anybody.
2. A volume that was found to have lost what it had acknowledged is never used again: its ``REFUSED`` says why.
3. A volume that holds anything but no identity, or another identity, refuses to start: a wiped or swapped volume has
   forgotten votes and acknowledged entries, and must come back as a new incarnation.
"""

from __future__ import annotations

import json
import secrets
from typing import NamedTuple

from crc32c import crc32c

from raft_node.errors import CorruptionError, IdentityError
from raft_node.runtime.members.advice import replace_command
from raft_node.storage.files import FileSystem
from raft_node.storage.notes import decode_object

FILE_NAME = "IDENTITY"
REFUSED_NAME = "REFUSED"
RESTORING = "RESTORING"
"""The note of a restore from a backup that has not come to its end (docs/formats.md, Notes)."""
_IGNORED = frozenset({"LOCK", "lost+found", FILE_NAME, FILE_NAME + ".tmp"})


class Identity(NamedTuple):
    """The identity of a node, as each of its volumes holds it."""

    name: str
    incarnation: int
    shard: int
    cluster_id: str


def _encode(identity: Identity) -> bytes:
    body = json.dumps(identity._asdict(), sort_keys=True).encode()
    return body + f"\n{crc32c(body):08x}\n".encode()


def read(fs: FileSystem, directory: str) -> Identity | None:
    """The identity that a volume holds; None when it holds none.

    Raises:
        CorruptionError: The file is damaged.
    """
    path = f"{directory}/{FILE_NAME}"
    if not fs.exists(path):
        return None
    data = fs.read_file(path)
    body, _, rest = data.partition(b"\n")
    if rest != f"{crc32c(body):08x}\n".encode():
        raise CorruptionError(path, 0, "the identity's checksum does not fit")
    fields = decode_object(path, body)
    match fields:
        case {"name": str(name), "incarnation": int(incarnation), "shard": int(shard), "cluster_id": str(cluster_id)}:
            identity = Identity(name, incarnation, shard, cluster_id)
            if fields == identity._asdict():
                return identity
    raise CorruptionError(path, 0, "the identity has other fields than are known")


def _write(fs: FileSystem, directory: str, identity: Identity) -> None:
    # Durable before the incarnation is told to any other node.
    _put(fs, directory, FILE_NAME, _encode(identity))


def _put(fs: FileSystem, directory: str, name: str, content: bytes) -> None:
    temporary = f"{directory}/{name}.tmp"
    file = fs.create(temporary)
    file.write_at(0, [content])
    # The content before the name, so that the name never shows an empty file.
    file.sync_data()
    file.close()
    fs.rename(temporary, f"{directory}/{name}")
    fs.sync_directory(directory)


def _is_fresh(fs: FileSystem, directory: str) -> bool:
    return not set(fs.list_directory(directory)) - _IGNORED


def _check_not_given_up(fs: FileSystem, *directories: str) -> None:
    for directory in directories:
        if fs.exists(f"{directory}/{REFUSED_NAME}"):
            raise IdentityError(fs.read_file(f"{directory}/{REFUSED_NAME}").decode(errors="replace").strip())


def _check_not_restoring(fs: FileSystem, *directories: str) -> None:
    for directory in directories:
        if fs.exists(f"{directory}/{RESTORING}"):
            raise IdentityError(
                f"a restore into {directory} was cut off: run `raft-node restore` with the same arguments again, or "
                f"empty both volumes"
            )


def load_or_create(fs: FileSystem, wal_dir: str, data_dir: str, name: str, shard: int) -> Identity:
    """Reads the identity of both volumes, or gives them one when both are new.

    Args:
        fs: The file system.
        wal_dir: The volume of the log; it exists.
        data_dir: The volume of the SSTables; it exists.
        name: This node's name.
        shard: This node's shard.

    Raises:
        IdentityError: The volumes do not belong together, to this node, or one was wiped, or they were given up.
        CorruptionError: An identity file is damaged.
    """
    _check_not_given_up(fs, wal_dir, data_dir)
    found = {directory: read(fs, directory) for directory in (wal_dir, data_dir)}
    known = [identity for identity in found.values() if identity is not None]
    if len(known) < len(found):
        _check_not_restoring(fs, wal_dir, data_dir)
    if not known:
        for directory in found:
            if not _is_fresh(fs, directory):
                raise IdentityError(
                    f"{directory} holds data but no {FILE_NAME}; it is not this node's, or was tampered with"
                )
        identity = Identity(name, secrets.randbits(63) | 1, shard, "")
        for directory in found:
            _write(fs, directory, identity)
        return identity
    identity = known[0]
    if (identity.name, identity.shard) != (name, shard):
        raise IdentityError(
            f"these volumes belong to {identity.name} of shard {identity.shard}, not to {name} of shard {shard}"
        )
    for directory, other in found.items():
        if other is None and identity.cluster_id == "" and _is_fresh(fs, directory):
            # The first start was interrupted between the two volumes; no other node knows this incarnation yet.
            _write(fs, directory, identity)
        elif other is None:
            raise IdentityError(
                f"{directory} is empty: {name} is known as incarnation {identity.incarnation}. If its volume still "
                f"exists somewhere (unmounted, under another path or claim), put it back: nothing is lost then. Only "
                f"if it is gone for good: what the node had acknowledged may be lost, so it must not vote again; give "
                f"both directories new, empty volumes, keep the old one, start it, and run "
                f"{replace_command(name, shard)} to admit it anew, as a learner first"
            )
        elif (other.name, other.incarnation, other.shard) != (identity.name, identity.incarnation, identity.shard):
            raise IdentityError(f"{wal_dir} and {data_dir} belong to different nodes or incarnations")
    cluster_ids = {other.cluster_id for other in known if other.cluster_id}
    if len(cluster_ids) > 1:
        raise IdentityError(f"{wal_dir} and {data_dir} belong to different clusters")
    if cluster_ids:
        return join_cluster(fs, wal_dir, data_dir, identity, cluster_ids.pop())
    return identity


def join_cluster(fs: FileSystem, wal_dir: str, data_dir: str, identity: Identity, cluster_id: str) -> Identity:
    """Writes the cluster's id to both volumes, where it is not there yet, and returns the identity with it."""
    joined = identity._replace(cluster_id=cluster_id)
    for directory in (wal_dir, data_dir):
        if read(fs, directory) != joined:
            _write(fs, directory, joined)
    return joined


def replace(fs: FileSystem, wal_dir: str, data_dir: str, identity: Identity) -> None:
    """Gives both volumes another identity, whatever they held; only for a lost quorum, and for a restore."""
    for directory in (wal_dir, data_dir):
        _write(fs, directory, identity)


def log_lost(name: str, shard: int, directories: tuple[str, str], acknowledged: object, last_index: object) -> str:
    """Says why a node whose log ends before what it had acknowledged stops, and what an operator does then."""
    return (
        f"{name} had acknowledged entry {acknowledged}, and its log ends at {last_index}: its disk is an older copy, "
        f"or lost what was synced, so it must not vote again. Wipe both volumes ({', '.join(directories)}), start it, "
        f"and run {replace_command(name, shard)} to admit it anew"
    )


def give_up(fs: FileSystem, wal_dir: str, data_dir: str, reason: str) -> None:
    """Makes sure that these volumes are not used again: what this incarnation had acknowledged is not on them."""
    for directory in (wal_dir, data_dir):
        _put(fs, directory, REFUSED_NAME, f"{reason}\n".encode())


def check_log_is_there(fs: FileSystem, wal_dir: str, identity: Identity) -> None:
    """Makes sure that a member of a cluster still has a log: a node joins only with one.

    Raises:
        IdentityError: The log was removed, and with it the votes and acknowledgements of this incarnation.
    """
    if identity.cluster_id and not any(name.endswith(".wal") for name in fs.list_directory(wal_dir)):
        raise IdentityError(
            f"{wal_dir} holds no log although {identity.name} is a member. If its files still exist somewhere, put "
            f"them back: nothing is lost then. Otherwise what it had voted for and acknowledged is lost, so it must "
            f"not vote again; give both directories new, empty volumes, keep the old ones, start it, and run "
            f"{replace_command(identity.name, identity.shard)} to admit it anew, as a learner first"
        )
