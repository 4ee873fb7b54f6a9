"""Every format has golden bytes: every section of docs/formats.md, and every function that encodes something.

Golden bytes stand in the tests of the member that has the format. Here it is only checked that there are some: who adds
a format, a command or a record adds a line here, and with it the test whose bytes fail when the format changes.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("protos/wire", "services/raft-node/src", "services/facade/src", "clients/python/src")
WIRE, NODE = "protos/tests", "services/raft-node/tests/unit"
FACADE, CLIENT = "services/facade/tests/unit", "clients/python/tests/unit"

KV = f"{NODE}/test_formats_kv.py"
LSM = f"{NODE}/test_formats_lsm.py"
WAL = f"{NODE}/test_formats_wal.py"
NOTES = f"{NODE}/test_formats_notes.py"
COMMANDS, RECORDS = f"{KV}::test_the_bytes_of_a_command", f"{KV}::test_the_bytes_of_what_is_kept"

SECTIONS = {
    "Entry": (f"{WAL}::test_entry_golden_bytes",),
    "Configuration": (
        f"{NODE}/test_raft_parts.py::test_golden_bytes",
        f"{NODE}/test_raft_joining.py::test_golden_bytes",
    ),
    "State hash": (RECORDS,),
    "Command": (COMMANDS, f"{KV}::test_every_command_has_golden_bytes", f"{WIRE}/test_payload.py::test_golden_bytes"),
    "Pipe": (f"{WIRE}/test_pipe.py::test_golden_bytes", f"{WIRE}/test_pipe.py::test_statuses_are_frozen"),
    "Scan": (f"{WIRE}/test_scan.py::test_golden_bytes",),
    "Watch": (f"{WIRE}/test_watch.py::test_golden_bytes", f"{FACADE}/test_watch_ids.py::test_golden"),
    "Cursor": (f"{FACADE}/test_cursor.py::test_golden_bytes",),
    "Session token": (f"{FACADE}/test_sessions.py::test_golden_bytes",),
    "Trace contexts": (f"{WIRE}/test_trace_context.py::test_the_bytes_of_a_blob_are_fixed",),
    "WAL segment": (
        f"{WAL}::test_segment_header_golden_bytes",
        f"{WAL}::test_golden_bytes_of_a_segment_header_after_a_compaction",
    ),
    "WAL frame": (f"{WAL}::test_frame_golden_bytes",),
    "Block": (f"{LSM}::test_block", f"{LSM}::test_sealed_block"),
    "Bloom filter": (f"{LSM}::test_bloom_filter",),
    "SSTable": (f"{LSM}::test_sstable",),
    "Manifest": (f"{LSM}::test_manifest_and_current",),
    "CURRENT": (f"{LSM}::test_manifest_and_current",),
    "Checkpoint": (f"{LSM}::test_checkpoint",),
    "Backup": (
        f"{CLIENT}/test_formats.py::test_the_manifest_of_a_backup",
        f"{CLIENT}/test_formats.py::test_a_shard_that_is_sent_to_a_restore",
        f"{FACADE}/test_formats.py::test_the_facts_of_a_shard",
    ),
    "Notes": (
        f"{NOTES}::test_a_note",
        f"{NOTES}::test_the_note_of_an_installation",
        f"{NOTES}::test_the_header_of_a_snapshot_that_is_received",
    ),
    "Change segment": (f"{LSM}::test_change_segment", RECORDS),
    "Keyspace": (RECORDS, f"{KV}::test_where_it_is_kept", f"{WIRE}/test_auth_document.py"),
    "IDENTITY": (f"{NOTES}::test_the_identity_of_a_node",),
}
WITHOUT = {
    "LSM tree": "the names of files; each file has a section of its own",
    "Recovery": "what a start does with a log, not a format",
    "InstallSnapshot": "messages of protobuf, whose fields protos/ numbers",
}

ENCODERS = {
    "protos/wire/doug_wire/auth/document.py:Document.encode": f"{WIRE}/test_auth_document.py",
    "protos/wire/doug_wire/command.py:encode": COMMANDS,
    "protos/wire/doug_wire/partition_map.py:PartitionMap.encode": f"{WIRE}/test_partition_map.py::test_golden_bytes",
    "protos/wire/doug_wire/partition_map.py:encode_ranges": "by PartitionMap.encode",
    "protos/wire/doug_wire/payload.py:encode_batch": f"{WIRE}/test_payload.py::test_golden_bytes",
    "protos/wire/doug_wire/payload.py:encode_increment": f"{WIRE}/test_payload.py::test_golden_bytes",
    "protos/wire/doug_wire/payload.py:encode_results": f"{WIRE}/test_payload.py::test_golden_bytes",
    "protos/wire/doug_wire/payload.py:encode_txn": f"{WIRE}/test_payload.py::test_golden_bytes",
    "protos/wire/doug_wire/payload.py:encode_txn_result": f"{WIRE}/test_payload.py::test_golden_bytes",
    "protos/wire/doug_wire/pipe.py:encode_read": f"{WIRE}/test_pipe.py::test_golden_bytes",
    "protos/wire/doug_wire/pipe.py:encode_result": f"{WIRE}/test_pipe.py::test_golden_bytes",
    "protos/wire/doug_wire/pipe.py:encode_write": f"{WIRE}/test_pipe.py::test_golden_bytes",
    "protos/wire/doug_wire/puts.py:encode_puts": f"{WIRE}/test_puts.py::test_golden_bytes",
    "protos/wire/doug_wire/puts.py:encode_results": f"{WIRE}/test_puts.py::test_golden_bytes",
    "protos/wire/doug_wire/scan.py:encode_entry": f"{WIRE}/test_scan.py::test_golden_bytes",
    "protos/wire/doug_wire/scan.py:encode_prefix": f"{WIRE}/test_scan.py::test_golden_bytes",
    "protos/wire/doug_wire/trace_context.py:encode_traces": (
        f"{WIRE}/test_trace_context.py::test_the_bytes_of_a_blob_are_fixed"
    ),
    "protos/wire/doug_wire/watch.py:encode_change": f"{WIRE}/test_watch.py::test_golden_bytes",
    "services/raft-node/src/raft_node/entry.py:encode": f"{WAL}::test_entry_golden_bytes",
    "services/raft-node/src/raft_node/kv/changes.py:encode_removals": RECORDS,
    "services/raft-node/src/raft_node/kv/keyspace.py:State.encode": RECORDS,
    "services/raft-node/src/raft_node/kv/keyspace.py:encode_value": RECORDS,
    "services/raft-node/src/raft_node/kv/operations/access.py:Stored.encode": RECORDS,
    "services/raft-node/src/raft_node/kv/operations/access.py:encode_change": COMMANDS,
    "services/raft-node/src/raft_node/kv/operations/expiry.py:encode_expire": COMMANDS,
    "services/raft-node/src/raft_node/kv/operations/shares.py:Share.encode": RECORDS,
    "services/raft-node/src/raft_node/kv/operations/tokens.py:TokenRecord.encode": RECORDS,
    "services/raft-node/src/raft_node/kv/operations/tokens.py:encode_limits": RECORDS,
    "services/raft-node/src/raft_node/kv/operations/tokens.py:encode_stored_limits": RECORDS,
    "services/raft-node/src/raft_node/kv/ownership.py:Ownership.encode": RECORDS,
    "services/raft-node/src/raft_node/kv/partitions.py:encode_create_shard": COMMANDS,
    "services/raft-node/src/raft_node/kv/scan.py:encode": "by doug_wire.scan.encode_entry",
    "services/raft-node/src/raft_node/kv/state_hash.py:ChainState.encode": RECORDS,
    "services/raft-node/src/raft_node/kv/state_hash.py:Mark.encode": RECORDS,
    "services/raft-node/src/raft_node/observability/tracing.py:NodeTraces.encoded": "by doug_wire.trace_context",
    "services/raft-node/src/raft_node/raft/configuration.py:encode_configuration": (
        f"{NODE}/test_raft_joining.py::test_golden_bytes"
    ),
    "services/raft-node/src/raft_node/runtime/members/identity.py:_encode": f"{NOTES}::test_the_identity_of_a_node",
    "services/raft-node/src/raft_node/runtime/reads/watches.py:_encode": "by doug_wire.watch.encode_change",
    "services/raft-node/src/raft_node/rpc/doug/operations.py:_encoded": "by doug_wire.command.encode",
    "services/raft-node/src/raft_node/storage/changes/segments.py:encode_file_header": f"{LSM}::test_change_segment",
    "services/raft-node/src/raft_node/storage/changes/segments.py:encode_frame": f"{LSM}::test_change_segment",
    "services/raft-node/src/raft_node/storage/notes.py:encode_note": f"{NOTES}::test_a_note",
    "services/raft-node/src/raft_node/storage/record.py:encode": f"{WAL}::test_frame_golden_bytes",
    "services/raft-node/src/raft_node/storage/snapshots/checkpoint.py:encode_checkpoint": f"{LSM}::test_checkpoint",
    "services/raft-node/src/raft_node/storage/tables/block.py:_encode": f"{LSM}::test_block",
    "services/raft-node/src/raft_node/storage/tables/block.py:encode_block": f"{LSM}::test_block",
    "services/raft-node/src/raft_node/storage/tables/block.py:encode_lengths": f"{LSM}::test_block",
    "services/raft-node/src/raft_node/storage/tables/manifest.py:encode_current": f"{LSM}::test_manifest_and_current",
    "services/raft-node/src/raft_node/storage/tables/manifest.py:encode_edit": f"{LSM}::test_manifest_and_current",
    "services/raft-node/src/raft_node/storage/tables/manifest.py:encode_file_header": (
        f"{LSM}::test_manifest_and_current"
    ),
    "services/raft-node/src/raft_node/storage/tables/manifest.py:encode_record": f"{LSM}::test_manifest_and_current",
    "services/raft-node/src/raft_node/storage/tables/sstable_writer.py:TableProperties.encode": f"{LSM}::test_sstable",
    "services/raft-node/src/raft_node/storage/tables/sstable_writer.py:encode_footer": f"{LSM}::test_sstable",
    "services/raft-node/src/raft_node/storage/tables/sstable_writer.py:encode_index": f"{LSM}::test_sstable",
    "services/raft-node/src/raft_node/storage/wal/segment.py:encode_header": f"{WAL}::test_segment_header_golden_bytes",
    "services/raft-node/src/raft_node/storage/wal/segment.py:encode_payload": f"{WAL}::test_frame_golden_bytes",
    "services/facade/src/facade/client/auth_state.py:_encoded": "by doug_wire.auth.document",
    "services/facade/src/facade/client/sessions.py:Sessions._encode": f"{FACADE}/test_sessions.py::test_golden_bytes",
    "services/facade/src/facade/routes/ranges/cursor.py:encode": f"{FACADE}/test_cursor.py::test_golden_bytes",
    "services/facade/src/facade/routes/watch/ids.py:encode": f"{FACADE}/test_watch_ids.py::test_golden",
    "clients/python/src/dougdb/exported.py:encode": f"{CLIENT}/test_formats.py::test_an_export",
    "clients/python/src/dougdb/leases.py:encode_holder": f"{CLIENT}/test_formats.py::test_the_value_of_a_lock",
}
OTHERS = {
    "protos/wire/doug_stream/headers.py": "the rules of gRPC over HTTP/2",
    "services/facade/src/facade/app/heads.py": "the rules of HTTP/1.1",
    "clients/python/src/dougdb/shapes.py": "the rules of URLs",
    "services/raft-node/src/raft_node/rpc/raft/codec.py": "messages of protobuf, whose fields protos/ numbers",
    "services/raft-node/src/raft_node/rpc/snapshots/codec.py": "messages of protobuf, whose fields protos/ numbers",
    "services/raft-node/src/raft_node/rpc/hot_streams.py": "messages of protobuf, whose fields protos/ numbers",
    "services/raft-node/src/raft_node/storage/merges/tasks.py": "between a node and the helper process that it starts",
}
"""What encodes by the rules of others, or for nobody but itself."""


@functools.cache
def functions(path: Path) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions of a module by name, and its methods by the name of their class and their own."""
    found: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for each in inner:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                found[prefix + each.name] = each
    return found


def encoders() -> set[str]:
    """Every function of the sources that is called ``encode`` or the like."""
    return {
        f"{path.relative_to(ROOT)}:{name}"
        for source in SOURCES
        for path in (ROOT / source).rglob("*.py")
        if str(path.relative_to(ROOT)) not in OTHERS
        for name in functions(path)
        if re.match(r"_?encode", name.rpartition(".")[2])
    }


def test_every_encoder_has_golden_bytes() -> None:
    assert encoders() == ENCODERS.keys()


def test_every_section_of_the_document_has_golden_bytes() -> None:
    text = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (.+)$", text, re.MULTILINE)) == {*SECTIONS, *WITHOUT}


@pytest.mark.parametrize("test", sorted({each for tests in SECTIONS.values() for each in tests} | {*ENCODERS.values()}))
def test_the_golden_bytes_are_there(test: str) -> None:
    """A test of this name exists, and its module has bytes in it."""
    if test.startswith("by "):
        return
    name, _, wanted = test.partition("::")
    path = ROOT / name
    assert not wanted or any(each.rpartition(".")[2] == wanted for each in functions(path)), test
    constants = (
        node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant)
    )
    assert any(map(is_golden, constants)), test


def is_golden(value: object) -> bool:
    """Whether a constant is bytes, or bytes in hexadecimal digits, or the id of an event."""
    if isinstance(value, bytes):
        return len(value) >= 8
    return isinstance(value, str) and re.fullmatch(r"(?:[0-9a-f]{2}\s*){8,}|w1-\S+", value) is not None


@pytest.mark.parametrize("path", sorted(OTHERS))
def test_what_is_left_out_encodes_something(path: str) -> None:
    assert any(re.match(r"_?encode", name.rpartition(".")[2]) for name in functions(ROOT / path))
