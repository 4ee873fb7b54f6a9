"""A host may have IPv4 or IPv6 alone: the addresses of the other family are left out."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from facade.app import server
from facade.errors import AddressError
from facade.settings import Address

BOTH = (Address("127.0.0.1", 0), Address("::1", 0))


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The hosts that this machine shall not have."""
    hosts: set[str] = set()

    def bind_one(address: Address, *, shared: bool) -> socket.socket:
        if address.host in hosts:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        return socket.socket()

    monkeypatch.setattr(server, "_bind_one", bind_one)
    return hosts


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_family_that_is_not_there_is_left_out(missing: set[str], host: str) -> None:
    missing.add(host)
    (bound,) = server.bind(BOTH)
    bound.close()


@pytest.mark.parametrize("addresses", [BOTH, BOTH[:1], BOTH[1:]])
def test_no_address_at_all_is_refused(missing: set[str], addresses: tuple[Address, ...]) -> None:
    missing.update(("127.0.0.1", "::1"))
    with pytest.raises(AddressError):
        server.bind(addresses)


def test_a_shared_address_is_taken_by_several_and_another_by_one() -> None:
    own, shared = Address("127.0.0.1", 0), Address("127.0.0.1", 0)
    first = server.bind((own,), (shared,))
    ports = [bound.getsockname()[1] for bound in first]
    try:
        second = server.bind((own,), (Address("127.0.0.1", ports[1]),))
        assert second[1].getsockname()[1] == ports[1] != second[0].getsockname()[1]
        for bound in second:
            bound.close()
        with pytest.raises(AddressError, match="it is in use"):
            server.bind((Address("127.0.0.1", ports[0]),))
        with pytest.raises(AddressError, match="it is in use"):
            server.bind((Address("127.0.0.1", ports[1]),))
    finally:
        for bound in first:
            bound.close()
