"""Which names are ours: facade.app.hosts."""

from __future__ import annotations

import socket

import pytest

from facade.app.hosts import Hosts
from facade.errors import BadRequestError

HOSTS = Hosts(["dougdb-facade", "dougdb-facade.ns.svc", "*.example.com"])


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:8080", "LOCALHOST.", "doug.localhost:1", "127.0.0.1", "127.0.0.1:8080", "[::1]:80"),
        *(
            "10.1.2.3:8080",
            "[fd00::7]",
            "dougdb-facade:8080",
            "Dougdb-Facade.ns.svc.",
            "a.example.com",
            "a.b.example.com",
        ),
        socket.gethostname(),
    ],
)
def test_names_that_are_ours(host: str) -> None:
    HOSTS.check([host.encode()])


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            ":80",
            "evil.example",
            "evil.example:8080",
            "example.com",
            "badexample.com",
            "dougdb-facade.evil.example",
        ),
        *(
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "a@localhost",
            "localhost/",
            "[::1",
            "a b",
        ),
        *("localhost:80:80", "127.0.0.1, localhost", "%6cocalhost", "1.2.3.4.5", "a b", "dougdb-facade.evil.example"),
    ],
)
def test_names_that_are_not(host: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        HOSTS.check([b"localhost", host.encode()])
    assert (caught.value.status, caught.value.code) == (421, "unknown_host")


def test_any_name() -> None:
    Hosts(["*"]).check([b"evil.example"])
    with pytest.raises(BadRequestError):
        Hosts(["*"]).check([b"a b"])
