"""Every example of docs/api.md and README.md is run by a shell, with curl.

It meets a facade of its own in front of fake nodes.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn

pytestmark = pytest.mark.seconds

MakeFacade = Callable[..., Awaitable[Any]]
ROOT = Path(__file__).parents[4]
DOCUMENTS = (ROOT / "docs" / "api.md", ROOT / "README.md")
ASSIGNED = re.compile(r"[a-z_]+=\$\(")
EXPECTED = {"200", "204", "404", "412"}
"""404 and 412: some examples are about what is not there, or has another revision."""


class Example(NamedTuple):
    """A command of the documents, and the variables that are set before it in the same block."""

    setup: str
    command: str


def blocks() -> list[str]:
    """The parts of the documents that are indented."""
    found: list[str] = []
    for line in ("", *(line for document in DOCUMENTS for line in document.read_text().splitlines())):
        if not line.startswith("    "):
            found.append("")
        else:
            found[-1] += line[4:] + "\n"
    return [block for block in found if block]


def examples() -> list[Example]:
    """The commands of the documents, with what is continued after a backslash or within quotes."""
    found: list[Example] = []
    for block in blocks():
        setup, command = "", ""
        for line in block.splitlines():
            command += line + "\n"
            if line.endswith("\\") or command.count("'") % 2:
                continue
            if ASSIGNED.match(command):
                setup += command
            elif command.startswith(("curl ", "printf ")):
                found.append(Example(setup, command))
            command = ""
    return found


def test_the_document_has_an_example_for_every_route_of_keys() -> None:
    text = "\n".join(example.command for example in examples())
    for route in ("-X PUT", "-X DELETE", "-X POST", ":increment", ":touch?ttl=", "/v1/ops/", "/v1/batch", "/v1/txn",
                  "application/x-ndjson", "?prefix=", "If-Match", "If-None-Match", "Idempotency-Key"):  # fmt: skip
        assert route in text, route


def test_curl_is_told_to_leave_braces_in_urls_alone() -> None:
    """Without ``-g`` it takes ``{ann}`` for a list of one, and asks for the key ``ann``."""
    urls = re.compile(r"'?localhost:8080[^ \n]*")
    braced = [each.command for each in examples() if any("{" in url for url in urls.findall(each.command))]
    assert braced
    assert all(" -g " in command for command in braced), braced


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
            command = re.sub(r"\bcurl\b", "curl -sS -o /dev/null -w '%{http_code}'", example.command)
            command = (example.setup + command).replace("localhost:8080", f"127.0.0.1:{port}")
            shell = await asyncio.create_subprocess_exec(
                "sh", "-c", command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                env={"PATH": os.environ["PATH"], "no_proxy": "*"}, cwd=ROOT,
            )  # fmt: skip
            output, errors = await shell.communicate()
            assert output.decode() in EXPECTED, (example, output, errors)
    finally:
        server.should_exit = True
        await serving
