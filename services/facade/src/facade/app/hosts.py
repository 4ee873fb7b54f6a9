"""Under which names the facade may be asked: a web page that gave its own name our address is refused (DNS rebinding).

A browser takes whatever a name resolves to for the page's own origin, and so would let a page of ``evil.example`` read
and write all data once that name resolves to a facade. The page cannot choose the ``Host`` that is sent, so a name that
is not ours tells it. An IP address as ``Host`` is no danger: nobody but the facade serves pages from it.

Must not know sockets. Invariant: no name is looked up.

Source: RFC 9110, 7.2 and 15.5.20.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence

from facade.errors import BadRequestError

ANY = "*"
_LOCAL = "localhost"
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:/@?#\s]+)(?::[0-9]{0,5})?")
_CACHED = 1024


def name_of(host: str) -> str:
    """The name in a ``Host``, in lower case and without its port; empty when there is none.

    >>> name_of("Doug.Example.:8080"), name_of("[::1]:80"), name_of("a b")
    ('doug.example', '::1', '')
    """
    found = _HOST.fullmatch(host)
    return found[1].strip("[]").lower().removesuffix(".") if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Hosts:
    """The host names under which this facade may be asked."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Takes names, ``*.example.com`` for all below one, ``*`` for any.

        localhost, addresses, and the name of this machine are always among them.
        """
        names = [name.lower().removesuffix(".") for name in names]
        self._any = ANY in names
        self._names = {_LOCAL, socket.gethostname().lower(), *names}
        self._endings = (f".{_LOCAL}", *(name[1:] for name in names if name.startswith("*.")))
        self.knows = functools.lru_cache(_CACHED)(self._knows)

    def _knows(self, host: bytes) -> bool:
        """Whether a ``Host`` names this facade."""
        name = name_of(host.decode("latin-1"))
        if not name:
            return False
        return self._any or name in self._names or name.endswith(self._endings) or _is_address(name)

    def check(self, hosts: Sequence[bytes]) -> None:
        """Refuses a request for a host that is not ours.

        Raises:
            BadRequestError: 421; a host is not this facade's.
        """
        for host in hosts:
            if not self.knows(host):
                shown = host.decode("latin-1")[:64]
                raise BadRequestError(
                    "unknown_host",
                    f"Nothing is served here under the name {shown!r}: it is not among DOUGDB_ALLOWED_HOSTS.",
                    status=421,
                )
