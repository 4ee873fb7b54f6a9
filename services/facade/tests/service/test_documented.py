"""Every example of docs/api.md, docs/auth.md and README.md is run by a shell, with curl; and every route has one.

They meet a facade of their own in front of fake nodes.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from facade.app.rules import RULES

pytestmark = pytest.mark.seconds

MakeFacade = Callable[..., Awaitable[Any]]
ROOT = Path(__file__).parents[4]
DOCUMENTS = (ROOT / "docs" / "api.md", ROOT / "README.md")
AUTH = ROOT / "docs" / "auth.md"
ASSIGNED = re.compile(r"[a-z_]+=\$\(")
EXPECTED = {"200", "201", "204", "404", "412"}
"""404 and 412: some examples are about what is not there, or has another revision."""
BOOTSTRAP = "bootstrap-" + "b" * 32
FOR_BROWSERS = {"/", "/ui/{file}", "/v1/console/{what}"}
"""The console and what it asks for: no interface for others."""
COOKIE = ("DELETE", "/v1/auth/session")
"""It needs the cookie and the secret of a browser's session."""


class Example(NamedTuple):
    """A command of the documents, and the variables that are set before it in the same block."""

    setup: str
    command: str


def blocks(documents: tuple[Path, ...]) -> list[str]:
    """The parts of documents that are indented."""
    found: list[str] = []
    for line in ("", *(line for document in documents for line in document.read_text().splitlines())):
        if not line.startswith("    "):
            found.append("")
        else:
            found[-1] += line[4:] + "\n"
    return [block for block in found if block]


def examples(*documents: Path) -> list[Example]:
    """The commands of documents, with what is continued after a backslash or within quotes."""
    found: list[Example] = []
    for block in blocks(documents or DOCUMENTS):
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


def asked(command: str) -> Iterator[tuple[str, str]]:
    """The method and the path of each request of a command."""
    for one in re.split(r"&& |\| ", command):
        url = re.search(r"localhost:8080([^\s'\"?]*)", one)
        if url is None:
            continue
        method = re.search(r"-X ([A-Z]+)", one)
        sends = re.search(r" (-d|--data-binary) ", one)
        yield method[1] if method else "HEAD" if " -I " in one else "POST" if sends else "GET", url[1]


def rule_of(path: str) -> str:
    """The template of the routing table that a path belongs to: the first one, as they are asked."""
    path = re.sub(r":(increment|touch)$", "", path)
    templates = (re.escape(rule.route).replace(r"\{key\}", ".+") for rule in RULES)
    patterns = (re.sub(r"\\{[a-z]+\\}", "[^/]+", template) for template in templates)
    return next(rule.route for rule, pattern in zip(RULES, patterns, strict=True) if re.fullmatch(pattern, path))


def test_the_documents_have_an_example_for_every_route() -> None:
    shown = {
        (method, rule_of(path)) for example in (*examples(), *examples(AUTH)) for method, path in asked(example.command)
    }
    routes = {(method, rule.route) for rule in RULES for method in rule.methods if rule.route not in FOR_BROWSERS}
    # HEAD of a page is its GET without the page.
    needed = {each for each in routes if each[0] != "HEAD" or each[1].startswith("/v1/kv")}
    assert needed - shown == {COOKIE}


def test_the_document_has_an_example_for_every_kind_of_request_for_keys() -> None:
    text = "\n".join(example.command for example in examples())
    for part in (":increment", ":touch?ttl=", "?key64=", ":increment?key64=", ":touch?key64=", "application/x-ndjson",
                 "?prefix=", "delimiter=/", "count_only=true", "dry_run=true", "If-Match", "If-None-Match",
                 "Idempotency-Key", "wait=30s", "Doug-Session", "Doug-Consistency"):  # fmt: skip
        assert part in text, part


def test_curl_is_told_to_leave_braces_in_urls_alone() -> None:
    """Without ``-g`` it takes ``{ann}`` for a list of one, and asks for the key ``ann``."""
    urls = re.compile(r"'?localhost:8080[^ \n]*")
    braced = [each.command for each in examples() if any("{" in url for url in urls.findall(each.command))]
    assert braced
    assert all(" -g " in command for command in braced), braced


async def answers(example: Example, port: int) -> list[str]:
    """The statuses of the answers to an example. A stream is left after its head: it has no end."""
    command = re.sub(r"-o \S+ ", "", example.command)
    without_end = "/v1/watch?" in command
    shown = "-D /dev/stdout" if without_end else "-w '%{http_code} '"
    command = re.sub(r"\bcurl\b", f"curl -sS -o /dev/null {shown}", command)
    shell = await asyncio.create_subprocess_exec(
        "sh", "-c", (example.setup + command).replace("localhost:8080", f"127.0.0.1:{port}"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT, start_new_session=True,
        env={"PATH": os.environ["PATH"], "no_proxy": "*", "DOUGDB_TOKEN": BOOTSTRAP},
    )  # fmt: skip
    if without_end:
        assert shell.stdout is not None
        head = await shell.stdout.readline()
        os.killpg(shell.pid, signal.SIGKILL)
        await shell.communicate()
        return [head.decode().split()[1]]
    output, errors = await shell.communicate()
    assert not errors, (example, errors)
    return output.decode().split()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_every_example_works(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=1)
    for node in facade.cluster.shards[0].nodes:
        node.staleness_ms = 5
    port = await facade.listen()
    for example in examples():
        found = await answers(example, port)
        assert len(found) == len(list(asked(example.command))), (example, found)
        assert EXPECTED.issuperset(found), (example, found)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_every_example_of_users_and_rights_works(make_facade: MakeFacade, tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.token"
    path.write_text(BOOTSTRAP)
    facade = await make_facade(shards=1, auth_mode="token", auth_bootstrap_file=str(path), auth_poll_ms=50)
    port = await facade.listen()
    for example in examples(AUTH):
        if "TOKEN" in example.command.replace("$DOUGDB_TOKEN", ""):
            continue  # One that a person fills in.
        assert {"200", "201", "204"}.issuperset(await answers(example, port)), example
