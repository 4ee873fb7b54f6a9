"""Looks names up without holding anything up: neither another name, nor the end of the process.

``loop.getaddrinfo`` runs in one of a few threads that the loop shares and waits for when it closes. While a name server
is silent a lookup takes ten seconds and more: four names of pods that are gone then hold up the name of the pod that
has come back, and a process that is told to stop is killed, since its loop cannot close. So each name has a thread of
its own here, as long as it is looked up, which the end of the process does not wait for.

Must not know what the addresses are for. Invariant: a name is looked up at most once at a time, so there are never more
threads than names.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable
from weakref import WeakKeyDictionary

Find = Callable[[str, int], list[str]]
"""Looks a name up and blocks: the addresses of a host for a port.

Raises:
    OSError: The name has no address.
"""


def find(host: str, port: int) -> list[str]:
    """The addresses that the system gives for a name. See ``Find``."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Names:
    """The lookups of one loop: the one that runs when it is asked."""

    def __init__(self, look_up: Find = find) -> None:
        """Looks up by ``look_up``."""
        self._look_up = look_up
        self._under_way: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host; one that is an address already is its own.

        Who stops waiting ends no lookup: the next who asks for the same name waits for it too.

        Raises:
            OSError: The name has no address.
        """
        if _is_address(host):
            return [host]
        future = self._under_way.get((host, port))
        if future is None:
            loop = asyncio.get_running_loop()
            future = self._under_way[host, port] = loop.create_future()
            # A failure for which no caller waits any more needs no report.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            thread = threading.Thread(target=self._run, args=(loop, host, port), name=f"look up {host}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._end(host, port, [], OSError(f"{host} cannot be looked up: {error}"))
        return await asyncio.shield(future)

    def _run(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> None:
        found, error = list[str](), OSError(f"{host!r} could not be looked up")
        known = False
        try:
            found = self._look_up(host, port)
            known = True
        except OSError as refused:
            error = refused
        except UnicodeError as refused:
            # A label that is empty or too long cannot be encoded.
            error = OSError(f"{host!r} is no name of a host: {refused}")
        finally:
            # Any other error ends this thread with a report, and must not leave the name blocked.
            with contextlib.suppress(RuntimeError):  # The loop is closed.
                loop.call_soon_threadsafe(self._end, host, port, found, None if known else error)

    def _end(self, host: str, port: int, found: list[str], error: OSError | None) -> None:
        future = self._under_way.pop((host, port))
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(found)


_BY_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, Names] = WeakKeyDictionary()


def names() -> Names:
    """The lookups of the running loop."""
    loop = asyncio.get_running_loop()
    found = _BY_LOOP.get(loop)
    if found is None:
        found = _BY_LOOP[loop] = Names()
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
