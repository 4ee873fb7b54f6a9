"""Snapshots on the wire: headers and chunks to protobuf and back.

What comes from the network is checked here and by ``SnapshotHeader.check``; what does not decode changes nothing.
"""

from __future__ import annotations

from crc32c import crc32c

from doug.v1 import raft_pb2 as pb
from raft_node.rpc.raft.codec import MessageError
from raft_node.storage.snapshots.checkpoint import CheckpointFile
from raft_node.storage.snapshots.incoming import IncomingError, SnapshotHeader


def encode_header(header: SnapshotHeader, envelope: pb.Envelope, term: int) -> pb.InstallSnapshotRequest:
    """The first message of a transfer."""
    files = [pb.SnapshotFile(name=file.name, size_bytes=file.size_bytes, xxh3=file.xxh3) for file in header.files]
    return pb.InstallSnapshotRequest(
        header=pb.SnapshotHeader(
            envelope=envelope,
            term=term,
            snapshot_id=bytes.fromhex(header.snapshot_id),
            last_index=header.last_index,
            last_term=header.last_term,
            configuration=header.configuration,
            timestamp_us=header.timestamp_us,
            files=files,
        )
    )


def decode_header(header: pb.SnapshotHeader) -> SnapshotHeader:
    """Decodes the header of a snapshot.

    Raises:
        MessageError: The header cannot be that of a snapshot.
    """
    decoded = SnapshotHeader(
        header.snapshot_id.hex(),
        header.last_index,
        header.last_term,
        header.configuration,
        header.timestamp_us,
        tuple(CheckpointFile(file.name, file.size_bytes, file.xxh3) for file in header.files),
    )
    try:
        decoded.check()
    except IncomingError as error:
        raise MessageError(f"a snapshot from {header.envelope.sender.name}: {error}") from error
    return decoded


def encode_chunk(file: int, offset: int, data: bytes) -> pb.InstallSnapshotRequest:
    """The message with a piece of a file."""
    return pb.InstallSnapshotRequest(
        chunk=pb.SnapshotChunk(file=file, offset=offset, data=data, crc32c=crc32c(data)),
    )


def is_sound(chunk: pb.SnapshotChunk) -> bool:
    """Whether a piece is as it was sent, by its checksum."""
    return crc32c(chunk.data) == chunk.crc32c
