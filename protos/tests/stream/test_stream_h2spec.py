"""The HTTP/2 of the own streams by h2spec, which sends what RFC 9113 and RFC 7541 forbid, and looks at what comes back.

`make stream-tools` builds it where Go is.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from doug_stream import headers
from doug_stream.errors import CallError
from doug_stream.headers import Fields, Request
from doug_stream.server import Method, Server

pytestmark = [pytest.mark.sockets, pytest.mark.pure]  # The test replaces what native modules call directly.

BUILT = Path(sys.prefix) / ".h2spec" / "h2spec"
PATH = "/any"


def read_any_request(fields: Fields) -> Request:
    """Takes a request as one of gRPC, as h2spec sends none: its streams would be over before it has begun."""
    head = headers.check(fields, request=True, trailers=False)
    return Request(PATH, headers.metadata_of(head.fields), None, "", headers.length_of(head))


async def answer_at_the_end(_: None, call: Any) -> None:
    """Reads a request to its end, and answers."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except CallError:
        return  # h2spec sends what is no message of gRPC.
    await call.write(b"v" * 1000)


async def test_the_own_streams_keep_the_rules_of_http2(monkeypatch: pytest.MonkeyPatch) -> None:
    h2spec = str(BUILT) if BUILT.exists() else shutil.which("h2spec")
    if h2spec is None:
        pytest.skip("h2spec is not here: make stream-tools builds it where Go is")
    monkeypatch.setattr(headers, "read_request", read_any_request)
    server = Server({PATH: Method(answer_at_the_end, bytes, bytes)})
    listening = await asyncio.get_running_loop().create_server(server.endpoint, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    run = await asyncio.create_subprocess_exec(
        h2spec, "--host", "127.0.0.1", "--port", str(port), "--timeout", "5",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(240):
            out, _ = await run.communicate()
    finally:
        if run.returncode is None:
            run.kill()
            await run.wait()
        listening.close()
        await server.stop(0)
    text = out.decode(errors="replace")
    found = text.partition("Failures:")[2] or text[-2000:]
    assert ", 0 failed" in text, found
    assert "145 tests, 145 passed" in text, found
