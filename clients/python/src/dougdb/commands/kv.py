"""``dougctl get``, ``put`` and ``delete``: one key each, values as raw bytes."""

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
from dougdb.wire import Consistency, Receipt, Value

KeyArgument = Annotated[str, typer.Argument(help="The key, UTF-8, at most 1 KiB.", show_default=False)]
ConsistencyOption = Annotated[Consistency, typer.Option("--consistency", help="What the read promises.")]


@remote
def get(
    context: typer.Context,
    *,
    key: KeyArgument,
    consistency: ConsistencyOption = Consistency.LINEARIZABLE,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the value to this file.", parser=given_path, metavar="PATH"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read a value; its bytes go to stdout as they are."""
    with client_of(context) as client:
        value = client.get(os.fsencode(key), consistency=consistency)
    if output is not None:
        try:
            output.write_bytes(value.data)
        except OSError as error:
            fail(f"{output}: {error.strerror}", ExitCode.FAILURE)
    if as_json:
        print_json(_json_of_value(key, value, consistency))
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
        Path | None, typer.Option("--file", "-f", help="Store this file's content.", parser=given_path, metavar="PATH")
    ] = None,
    content_type: Annotated[str | None, typer.Option("--content-type", help="Kept with the value.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Store a value under a key, whatever is there."""
    if (value is None) == (file is None):
        fail("give either a VALUE (or - for stdin) or --file FILE", ExitCode.USAGE)
    data, guessed = _read_value(value, file)
    with client_of(context) as client:
        receipt = client.put(os.fsencode(key), data, content_type=content_type or guessed)
    _print_receipt(key, receipt, as_json=as_json)


@remote
def delete(context: typer.Context, key: KeyArgument, as_json: JsonOption = False) -> None:
    """Remove a key; that it does not exist is no error."""
    with client_of(context) as client:
        receipt = client.delete(os.fsencode(key))
    _print_receipt(key, receipt, as_json=as_json)


def _read_value(value: str | None, file: Path | None) -> tuple[bytes, str]:
    """The bytes to store, and the content type that suggests itself."""
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


def _json_of_value(key: str, value: Value, consistency: Consistency) -> dict[str, Any]:
    try:
        text, encoding = value.data.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(value.data).decode(), "base64"
    return {
        "key": key,
        "value": text,
        "encoding": encoding,
        "content_type": value.content_type,
        "revision": value.receipt.revision,
        "shard": value.receipt.shard,
        "served_by": value.receipt.served_by,
        "consistency": str(consistency),
    }


def _print_receipt(key: str, receipt: Receipt, *, as_json: bool) -> None:
    if as_json:
        revision = {} if receipt.revision is None else {"revision": receipt.revision}
        print_json({"key": key, "shard": receipt.shard, "served_by": receipt.served_by, **revision})
    else:
        print("OK")
