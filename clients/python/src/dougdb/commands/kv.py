"""``dougctl get``, ``put``, ``delete``, ``increment`` and ``touch``: one key each, values as raw bytes."""

from __future__ import annotations

import base64
import mimetypes
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dougdb.checks import OCTET_STREAM, VALUE_BYTES_MAX
from dougdb.commands.common import ExitCode, JsonOption, client_of, fail, print_json, remote
from dougdb.commands.given import given_path
from dougdb.idempotency import AUTO
from dougdb.operations import key_fields
from dougdb.shapes import Consistency, Receipt, Value, bounded, shown_time

KeyArgument = Annotated[str, typer.Argument(help="The key: any bytes, at most 1 KiB.", show_default=False)]
TtlOption = Annotated[
    str | None,
    typer.Option("--ttl", help="The time until the key expires: 500ms, 30s, 5m, 2h, 7d; keep: the present expiry."),
]
IfRevisionOption = Annotated[
    str | None, typer.Option("--if-revision", metavar="N", help="Do it only if the key has this revision.")
]
IfAbsentOption = Annotated[bool, typer.Option("--if-absent", help="Do it only if the key does not exist.")]
IfExistsOption = Annotated[bool, typer.Option("--if-exists", help="Do it only if the key exists.")]
IdempotencyKeyOption = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        metavar="KEY",
        help="With the same KEY the write is carried out once, even if it is sent twice.",
    ),
]
ConsistencyOption = Annotated[Consistency, typer.Option("--consistency", help="The consistency of the read.")]
StalenessOption = Annotated[
    str | None,
    typer.Option("--max-staleness", help="Read from any replica whose data are at most this old: 500ms, 2s."),
]


def consistency_of(consistency: Consistency, max_staleness: str | None) -> str:
    """The consistency of a read, by the options."""
    if max_staleness is None:
        return str(consistency)
    if consistency is not Consistency.LINEARIZABLE:
        fail("give --consistency or --max-staleness", ExitCode.USAGE)
    return bounded(max_staleness)


@remote
def get(
    context: typer.Context,
    *,
    key: KeyArgument,
    consistency: ConsistencyOption = Consistency.LINEARIZABLE,
    max_staleness: StalenessOption = None,
    if_revision: IfRevisionOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the value to this file.", parser=given_path, metavar="PATH"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read a value; its bytes go to stdout as they are."""
    with client_of(context) as client:
        wanted = consistency_of(consistency, max_staleness)
        value = client.get(os.fsencode(key), consistency=wanted, if_revision=if_revision)
    if output is not None:
        try:
            output.write_bytes(value.data)
        except OSError as error:
            fail(f"{output}: {error.strerror}", ExitCode.FAILURE)
    if as_json:
        print_json(_json_of_value(key, value, wanted))
    elif output is None:
        sys.stdout.buffer.write(value.data)
        sys.stdout.buffer.flush()


@remote
def put(
    context: typer.Context,
    *,
    key: KeyArgument,
    value: Annotated[str | None, typer.Argument(help="The value, or - for stdin.", show_default=False)] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Store the content of this file.", parser=given_path, metavar="PATH"),
    ] = None,
    content_type: Annotated[
        str | None, typer.Option("--content-type", help="The content type to keep with the value.")
    ] = None,
    ttl: TtlOption = None,
    if_revision: IfRevisionOption = None,
    if_absent: IfAbsentOption = False,
    if_exists: IfExistsOption = False,
    idempotency_key: IdempotencyKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store a value under a key."""
    if (value is None) == (file is None):
        fail("give either a VALUE (or - for stdin) or --file FILE", ExitCode.USAGE)
    data, guessed = _read_value(value, file)
    with client_of(context) as client:
        receipt = client.put(
            os.fsencode(key),
            data,
            content_type=content_type or guessed,
            ttl=ttl,
            if_revision=if_revision,
            if_absent=if_absent,
            if_exists=if_exists,
            idempotency_key=idempotency_key or AUTO,
        )
    _print_receipt(key, receipt, as_json=as_json)


@remote
def delete(
    context: typer.Context,
    *,
    key: KeyArgument,
    if_revision: IfRevisionOption = None,
    if_exists: IfExistsOption = False,
    idempotency_key: IdempotencyKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a key. It is no error if the key does not exist."""
    with client_of(context) as client:
        receipt = client.delete(
            os.fsencode(key),
            if_revision=if_revision,
            if_exists=if_exists,
            idempotency_key=idempotency_key or AUTO,
        )
    _print_receipt(key, receipt, as_json=as_json)


@remote
def increment(
    context: typer.Context,
    *,
    key: KeyArgument,
    by: Annotated[int, typer.Argument(help="The number to add; write a negative one behind --.")] = 1,
    initial: Annotated[int, typer.Option("--initial", help="The value to start from if the key does not exist.")] = 0,
    ttl: TtlOption = None,
    if_revision: IfRevisionOption = None,
    if_absent: IfAbsentOption = False,
    if_exists: IfExistsOption = False,
    idempotency_key: IdempotencyKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add to a value that is a whole number, atomically, and print the sum."""
    with client_of(context) as client:
        counter = client.increment(
            os.fsencode(key),
            by,
            initial=initial,
            ttl=ttl,
            if_revision=if_revision,
            if_absent=if_absent,
            if_exists=if_exists,
            idempotency_key=idempotency_key or AUTO,
        )
    if as_json:
        print_json({"value": str(counter.value), **_receipt_fields(key, counter.receipt)})
    else:
        print(counter.value)


@remote
def touch(
    context: typer.Context,
    *,
    key: KeyArgument,
    ttl: Annotated[str, typer.Argument(help="The time until the key expires, from now on: 500ms, 30s, 5m, 2h, 7d.")],
    if_revision: IfRevisionOption = None,
    if_exists: IfExistsOption = False,
    idempotency_key: IdempotencyKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a key another expiry without changing its value."""
    with client_of(context) as client:
        receipt = client.touch(
            os.fsencode(key),
            ttl,
            if_revision=if_revision,
            if_exists=if_exists,
            idempotency_key=idempotency_key or AUTO,
        )
    _print_receipt(key, receipt, as_json=as_json)


def _read_value(value: str | None, file: Path | None) -> tuple[bytes, str]:
    """The bytes to store, and the content type to assume if none is given."""
    if file is not None:
        try:
            with file.open("rb") as stream:
                # One byte over the limit is enough to be refused with the server's own message.
                return stream.read(VALUE_BYTES_MAX + 1), mimetypes.guess_type(file.name)[0] or OCTET_STREAM
        except OSError as error:
            fail(f"{file}: {error.strerror}", ExitCode.FAILURE)
    if value == "-":
        return sys.stdin.buffer.read(VALUE_BYTES_MAX + 1), OCTET_STREAM
    return os.fsencode(value or ""), "text/plain; charset=utf-8"


def _json_of_value(key: str, value: Value, consistency: str) -> dict[str, Any]:
    try:
        text, encoding = value.data.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(value.data).decode(), "base64"
    encoded = {} if value.content_encoding is None else {"content_encoding": value.content_encoding}
    return {
        **key_fields(os.fsencode(key)),
        "value": text,
        "encoding": encoding,
        "content_type": value.content_type,
        **encoded,
        "revision": value.receipt.revision,
        "expires_at": shown_time(value.expires_at),
        "shard": _shard(value.receipt),
        "served_by": value.receipt.served_by,
        "consistency": str(consistency),
        **_timing_fields(value.receipt),
    }


def _shard(receipt: Receipt) -> int | None:
    """The shard's number as in all JSON documents; None if the receipt names no shard."""
    return int(receipt.shard) if receipt.shard.isdecimal() else None


def _timing_fields(receipt: Receipt) -> dict[str, Any]:
    return {"timing_ms": dict(receipt.timing)} if receipt.timing else {}


def _receipt_fields(key: str, receipt: Receipt) -> dict[str, Any]:
    found: dict[str, Any] = {**key_fields(os.fsencode(key)), "shard": _shard(receipt), "served_by": receipt.served_by}
    if receipt.revision is not None:
        found["revision"] = receipt.revision
    if receipt.expires_at is not None:
        found["expires_at"] = shown_time(receipt.expires_at)
    if receipt.replayed:
        found["replayed"] = True
    return found | _timing_fields(receipt)


def _print_receipt(key: str, receipt: Receipt, *, as_json: bool) -> None:
    if as_json:
        print_json(_receipt_fields(key, receipt))
    else:
        print("OK")
