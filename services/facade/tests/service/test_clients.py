"""Real HTTP clients against the facade, among them those that ask for HTTP/2 by Upgrade with the first request.

A client whose program is missing is skipped. Each puts a small value and one that does not fit a single segment, and
reads both back.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests

pytestmark = pytest.mark.seconds

MakeFacade = Callable[..., Awaitable[Any]]

CLIENTS = Path(__file__).resolve().parent.parent / "clients"
VALUES = (b"after", bytes(range(256)) * 3000)
TLS = Path(__file__).resolve().parents[4] / "tools" / "certs.py"


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} here")
    return found


async def run(*command: str | Path, **variables: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        env={**os.environ, "no_proxy": "*", "NO_PROXY": "*", **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(120):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@pytest.fixture
async def facade(make_facade: MakeFacade) -> Any:
    return await make_facade(nodes=1)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"value-{number}" for number in range(len(VALUES))]
    for path, value in zip(paths, VALUES, strict=True):
        path.write_bytes(value)
    return paths


def check_stored(facade: Any) -> None:
    stored = facade.cluster.shards[0].data
    assert [stored[b"%d" % (number + 1)][0] for number in range(len(VALUES))] == list(VALUES)


@pytest.mark.parametrize("options", [["--http2"], ["--http1.1"], ["--http2", "-H", "Expect: 100-continue"]])
async def test_curl(facade: Any, files: list[Path], options: list[str]) -> None:
    curl = program("curl")
    url = f"http://127.0.0.1:{await facade.listen()}/v1/kv"
    for number, file in enumerate(files, 1):
        write = ["-X", "PUT", "--data-binary", f"@{file}", f"{url}/{number}", "--next", "-sS", *options]
        output = await run(curl, "-sS", *options, *write, "-o", file.with_suffix(".back"), f"{url}/{number}")
        assert '"revision"' in output, output
        assert file.with_suffix(".back").read_bytes() == file.read_bytes()
    check_stored(facade)


@pytest.mark.parametrize(
    ("name", "command"),
    [("java", [CLIENTS / "Put.java"]), ("go", ["run", CLIENTS / "put.go"]), ("node", [CLIENTS / "put.mjs"])],
    ids=["java.net.http", "net/http", "undici"],
)
async def test_other_languages(
    facade: Any, files: list[Path], tmp_path: Path, name: str, command: list[str | Path]
) -> None:
    found = program(name)
    cache = {} if os.environ.get("HOME") or os.environ.get("GOCACHE") else {"GOCACHE": str(tmp_path / "cache")}
    url = f"http://127.0.0.1:{await facade.listen()}/v1/kv"
    output = await run(found, *command, url, *files, **cache, GO111MODULE="off", CGO_ENABLED="0")
    assert output.splitlines() == ["200 200 true"] * len(VALUES)
    check_stored(facade)


async def test_python_clients(facade: Any) -> None:
    url = f"http://127.0.0.1:{await facade.listen()}/v1/kv"

    def by_requests() -> None:
        with requests.Session() as session:
            session.trust_env = False
            for number, value in enumerate(VALUES, 1):
                assert session.put(f"{url}/{number}", data=value, timeout=20).status_code == 200
                assert session.get(f"{url}/{number}", timeout=20).content == value

    async def by_httpx(*, http2: bool) -> None:
        async with httpx.AsyncClient(trust_env=False, http2=http2) as session:
            for number, value in enumerate(VALUES, 1):
                assert (await session.put(f"{url}/{number}", content=value)).status_code == 200
                assert (await session.get(f"{url}/{number}")).content == value

    async def by_aiohttp() -> None:
        async with aiohttp.ClientSession() as session:
            for number, value in enumerate(VALUES, 1):
                async with session.put(f"{url}/{number}", data=value, expect100=True) as answer:
                    assert answer.status == 200
                async with session.get(f"{url}/{number}") as answer:
                    assert await answer.read() == value

    await asyncio.to_thread(by_requests)
    check_stored(facade)
    facade.cluster.shards[0].data.clear()
    await by_aiohttp()
    check_stored(facade)
    for http2 in (False, True) if importlib.util.find_spec("h2") else (False,):
        facade.cluster.shards[0].data.clear()
        await by_httpx(http2=http2)
        check_stored(facade)


async def test_an_upgrade_over_tls(facade: Any, tmp_path: Path) -> None:
    """No client of its own accord asks for one there; the facade answers as without TLS."""
    await run(Path(sys.executable), TLS, "--out", tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    port = await facade.listen(context)
    trust = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
    async with asyncio.timeout(60):
        for number, value in enumerate(VALUES, 1):
            writer.write(
                b"PUT /v1/kv/%d HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
                b"Content-Length: %d\r\n\r\n" % (number, len(value)) + value
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            await reader.readuntil(b"}")
    writer.close()
    check_stored(facade)
