"""Clients that prove who they are by a certificate, over TLS: from the handshake to what they may do."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tools.certs import Authority, write

from doug_wire import tls
from doug_wire.auth.document import EMPTY
from doug_wire.auth.grants import parse_grant

PUT = b"PUT /v1/kv/a/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
APPS = EMPTY.with_role("apps", (parse_grant("write:a/"),))


class Visitor:
    """Connects with certificates of the clients' authority."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._people = Authority.make("people")
        servers = Authority.make("servers")
        names = ("tls.crt", "tls.key", "ca.crt", "people.crt")
        self.files = tls.Files(*(folder / name for name in names))
        servers.write_certificate(folder, ["localhost"])
        write(folder / "ca.crt", servers.pem)
        write(folder / "people.crt", self._people.pem)

    @contextlib.asynccontextmanager
    async def connects(self, port: int, name: str) -> AsyncIterator[Callable[..., Awaitable[int]]]:
        """Opens a connection with a certificate of this name, or without one; gives what sends a request, a write."""
        own = ssl.create_default_context(cafile=str(self.files.ca))
        if name:
            folder = self._folder / name
            folder.mkdir(exist_ok=True)
            self._people.write_certificate(folder, [name])
            own.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        reader, writer = await asyncio.open_connection("localhost", port, ssl=own)

        async def status(request: bytes = PUT) -> int:
            writer.write(request)
            async with asyncio.timeout(60):
                head = await reader.readuntil(b"\r\n\r\n")
                found = re.search(rb"content-length: (\d+)", head)
                assert found is not None
                await reader.readexactly(int(found[1]))
            return int(head.split()[1])

        yield status
        writer.close()


@pytest.mark.parametrize("hot", [True, False])
async def test_each_connection_is_judged_by_its_own_certificate(
    make_facade: Callable[..., Awaitable[Any]], tmp_path: Path, hot: bool
) -> None:
    """On either way, though all of them repeat the same head."""
    facade = await make_facade(nodes=1, auth_mode=("mtls",), auth_poll_ms=50)
    await facade.until(lambda: facade.state.age_s() is not None, "the users are known")
    await facade.state.change(lambda _: APPS.with_user("cert:ann", "apps"))
    visitor = Visitor(tmp_path)
    port = await facade.listen(tls.Certificates(visitor.files).client_context(), hot=hot)
    async with contextlib.AsyncExitStack() as stack:
        ann, bob, nobody = [
            await stack.enter_async_context(visitor.connects(port, name)) for name in ("ann", "bob", "")
        ]
        assert [await ann() for _ in range(4)] == [200] * 4
        assert [await bob() for _ in range(3)] == [403] * 3
        assert await nobody() == 401
        assert (await ann(), await bob()) == (200, 403)
        await facade.state.change(lambda _: APPS.with_user("cert:bob", "apps"))
        assert (await ann(), await bob()) == (403, 200)


@pytest.mark.parametrize("origins", [("https://app.example.com",), ("*",)])
async def test_a_browser_lends_its_certificate_to_no_foreign_page(
    make_facade: Callable[..., Awaitable[Any]], tmp_path: Path, origins: tuple[str, ...]
) -> None:
    """It shows it whatever page asks, also for what needs no permission first; the pages that are named need tokens."""
    facade = await make_facade(nodes=1, auth_mode=("mtls",), auth_poll_ms=50, cors_origins=origins)
    await facade.until(lambda: facade.state.age_s() is not None, "the users are known")
    await facade.state.change(lambda _: APPS.with_user("cert:ann", "apps"))
    visitor = Visitor(tmp_path)
    port = await facade.listen(tls.Certificates(visitor.files).client_context())
    increment = b"POST /v1/kv/a/n:increment HTTP/1.1\r\nHost: localhost:%d\r\nContent-Length: 0\r\n%b\r\n"
    own = b"Origin: https://localhost:%d\r\nSec-Fetch-Site: same-origin\r\n" % port
    for headers, expected in (
        (b"", 200),
        (own, 200),
        (b"Origin: https://app.example.com\r\nSec-Fetch-Site: cross-site\r\n", 403),
        (b"Origin: https://app.example.com\r\n", 403),
    ):
        async with visitor.connects(port, "ann") as ann:
            assert await ann(increment % (port, headers)) == expected, headers
