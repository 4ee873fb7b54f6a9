"""Every example of docs/api.md is run by a shell, with curl, against a facade of its own in front of fake nodes."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn

pytestmark = pytest.mark.slow

MakeFacade = Callable[..., Awaitable[Any]]
DOCUMENT = Path(__file__).parents[4] / "docs" / "api.md"
EXPECTED = {"200", "204", "404", "412"}
"""404 and 412: some examples are about what is not there, or has another revision."""


def examples() -> list[str]:
    """The commands of the document: indented, with what is continued after a backslash or within quotes."""
    found: list[str] = []
    open_quote = False
    for line in DOCUMENT.read_text().splitlines():
        text = line[4:]
        if found and line.startswith("    ") and (open_quote or found[-1].endswith("\\")):
            found[-1] += "\n" + text
        elif line.startswith(("    curl ", "    printf ")):
            found.append(text)
        else:
            open_quote = False
            continue
        open_quote = found[-1].count("'") % 2 == 1
    return found


def test_the_document_has_an_example_for_every_route_of_keys() -> None:
    text = "\n".join(examples())
    for route in ("-X PUT", "-X DELETE", "-X POST", ":increment", ":touch?ttl=", "/v1/ops/", "/v1/batch", "/v1/txn",
                  "application/x-ndjson", "?prefix=", "If-Match", "If-None-Match", "Idempotency-Key"):  # fmt: skip
        assert route in text, route


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_every_example_works(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=1)
    for node in facade.cluster.shards[0].nodes:
        node.staleness_ms = 5
    config = uvicorn.Config(
        facade.application, host="127.0.0.1", port=0, http="httptools", lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        await facade.until(lambda: server.started, "it serves")
        port = server.servers[0].sockets[0].getsockname()[1]
        for example in examples():
            command = example.replace("localhost:8080", f"127.0.0.1:{port}")
            command = re.sub(r"\bcurl\b", "curl -sS -o /dev/null -w '%{http_code}'", command)
            shell = await asyncio.create_subprocess_exec(
                "sh", "-c", command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                env={"PATH": os.environ["PATH"], "no_proxy": "*"},
            )  # fmt: skip
            output, errors = await shell.communicate()
            assert output.decode() in EXPECTED, (example, output, errors)
    finally:
        server.should_exit = True
        await serving
