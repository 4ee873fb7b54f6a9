"""Runs the facade: sockets, uvicorn, signals, orderly stop.

Must not know routes or gRPC. Invariants: (1) sockets are bound before anything else starts, so that a taken port
touches nothing; (2) on SIGTERM, SIGINT or (if set) the end of stdin, requests under way are finished first, and each
answer says that its connection ends, so that a client with a kept connection does not send into one that is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog
import uvicorn

from doug_wire import native
from doug_wire.listening import Listening
from doug_wire.tls import Certificates
from doug_wire.tracing import Tracing
from facade.app import crashes, reserve, security
from facade.app.application import Application
from facade.app.audit import Audit
from facade.app.front import Front
from facade.app.gate import Gate
from facade.app.protocol import LimitedProtocol
from facade.app.tracing import TracedApplication
from facade.client.auth_state import AuthState
from facade.client.channels import Channels
from facade.client.metrics import Metrics
from facade.client.router import Router
from facade.client.tracing import OperationTracing
from facade.discovery.choice import choose
from facade.errors import AddressError
from facade.settings import Address, Settings

log = structlog.get_logger()

NO_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
BACKLOG = 2048
KEEP_ALIVE_S = 75
GRACE_S = 5
CHECK_S = 1.0
LEAVE_S = 1.0
LEAVE_CHECK_S = 0.02


def bind(addresses: Sequence[Address], shared: Sequence[Address] = ()) -> list[socket.socket]:
    """Binds every address; one of a family that this machine does not have is left out, with a warning.

    Args:
        addresses: Those that are this process's alone.
        shared: Those that other facades of the same user may bind as well.

    Raises:
        AddressError: An address is taken or cannot be used, or none is left.
    """
    sockets: list[socket.socket] = []
    try:
        for address in (*addresses, *shared):
            beside = shared if address in shared else addresses
            try:
                sockets.append(_bind_one(address, shared=beside is shared))
            except OSError as error:
                if error.errno in NO_FAMILY and _is_spared(address, beside):
                    event = "listen.no_ipv6" if ":" in address.host else "listen.no_ipv4"
                    log.warning(event, address=str(address), error=error.strerror)
                    continue
                what = "it is in use" if error.errno == errno.EADDRINUSE else str(error.strerror or error)
                raise AddressError(str(address), what) from error
        if not sockets:
            raise AddressError(", ".join(map(str, addresses)), "this machine has no such address")
    except AddressError:
        for bound in sockets:
            bound.close()
        raise
    return sockets


def _is_spared(address: Address, addresses: Sequence[Address]) -> bool:
    """Whether the facade may do without an address: IPv6 always, IPv4 beside IPv6, since a host may have one alone."""
    return ":" in address.host or any(":" in other.host for other in addresses)


def _bind_one(address: Address, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((address.host, address.port))
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which raise the signal again when they are done.

    Attributes:
        listening: Where connections come from.
    """

    listening: Listening
    _leaving = False
    on_stop: Callable[[], None] = staticmethod(lambda: None)
    """Called when the server is told to stop, to end the streams that would never end by themselves."""

    def __init__(self, config: uvicorn.Config, front: Front) -> None:
        super().__init__(config)
        self._front = front

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens by ``Listening``, as uvicorn does not."""
        factory: Callable[..., Any] = self.config.http_protocol_class
        make = functools.partial(factory, config=self.config, server_state=self.server_state, app_state={})
        self.listening = Listening(make, self.config.ssl, self._room, self._front.head_timeout_s, self._free)
        self.servers = await self.listening.start(sockets or (), self.config.backlog)
        self.started = True

    def _room(self) -> int:
        """How many more connections there may be: always some, since those in the reserve make room for new ones."""
        return self._free() + 2 * reserve.PLACES

    def _free(self) -> int:
        """How many more connections there may be outside of the reserve."""
        return self._front.connections_max - len(self.server_state.connections)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets nobody in any more, then as uvicorn does."""
        for server in self.servers:
            server.close()
        await self.listening.stop()
        await super().shutdown(sockets)

    def stop(self) -> None:
        """Ends the server in order; a second call ends it without waiting for clients to leave."""
        if self.should_exit or self._leaving:
            self.should_exit = True
            return
        self._leaving = True
        self.on_stop()
        # uvicorn makes its headers anew every second, from those of its configuration.
        self.config.encoded_headers.append((b"connection", b"close"))
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        loop = asyncio.get_running_loop()
        self._leave(loop, loop.time() + LEAVE_S)

    def _leave(self, loop: asyncio.AbstractEventLoop, until_s: float) -> None:
        """Exits when no client is left, or at ``until_s``: those that asked were told to leave, the others are idle."""
        if not self.server_state.connections or loop.time() >= until_s:
            self.should_exit = True
        else:
            loop.call_later(LEAVE_CHECK_S, self._leave, loop, until_s)

    def check_times(self, now_s: float, front: Front) -> None:
        for connection in tuple(self.server_state.connections):
            assert isinstance(connection, LimitedProtocol)
            connection.check_time(now_s, KEEP_ALIVE_S)
        listening = self.listening
        front.look(len(self.server_state.connections) + listening.under_way, listening.given_up)


async def serve(
    settings: Settings,
    sockets: list[socket.socket],
    certificates: Certificates | None = None,
    tracing: Tracing | None = None,
) -> None:
    """Serves until the process is told to stop: HTTPS with certificates, HTTP without."""
    loop = asyncio.get_running_loop()
    crashes.install(loop)
    metrics = Metrics(settings.build_commit)
    operations = None if tracing is None else OperationTracing(tracing)
    router = Router(settings, metrics, Channels(certificates), operations)
    discovery = choose(settings, metrics.registry)
    router.upkeep.on_unreachable = discovery.hurry
    state, gate = make_gate(settings, metrics, router)
    application = Application(router, metrics, settings, state, gate)
    # Traced requests go through ASGI, where their span is made.
    hot = application.hot if tracing is None else None
    server = _Server(
        uvicorn.Config(
            application if tracing is None else TracedApplication(application, tracing, settings.tracing_sample_ratio),
            http=functools.partial(LimitedProtocol, front=application.front, hot=hot),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=GRACE_S,
            ssl_context_factory=security.https(settings, certificates),
        ),
        application.front,
    )
    if application.console is not None:
        server.on_stop = application.console.collector.close
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    if settings.stop_on_stdin_eof:
        threading.Thread(target=_watch_stdin, args=(loop, server), name="stdin", daemon=True).start()
    _calm_garbage_collector()
    async with asyncio.TaskGroup() as group:
        background = [
            group.create_task(router.upkeep.run()),
            group.create_task(application.audience.run()),
            group.create_task(discovery.run(router.upkeep.update)),
            group.create_task(_check_times(server, application.front, metrics)),
        ]
        if gate is not None:
            background.append(group.create_task(gate.run()))
        if application.console is not None:
            background.append(group.create_task(application.console.collector.run()))
        if certificates is not None:
            metrics.tell_expiry(certificates.expires_s)
            watch = certificates.watch(settings.tls_reload_ms / 1000, log.info, log.error)
            background.append(group.create_task(watch))
        listen = [str(address) for address in settings.addresses]
        log.info("facade.started", listen=listen, native_modules=native.modules())
        await server.serve(sockets)
        for task in background:
            task.cancel()


def make_gate(settings: Settings, metrics: Metrics, router: Router) -> tuple[AuthState | None, Gate | None]:
    """Makes the gate, and the state of the users that it asks; None for both while clients need not say who they are.

    Raises:
        SettingsError: A file is missing or makes no sense.
    """
    if not settings.guarded:
        return None, None
    state = AuthState(router.directory, settings.auth_poll_ms / 1000)
    return state, Gate(settings, state, Audit(settings.audit_file, metrics.registry))


def _calm_garbage_collector() -> None:
    """Makes full collections rare: the objects of now live on, and a request leaves hardly any cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 1_000)


async def _check_times(server: _Server, front: Front, metrics: Metrics) -> None:
    loop = asyncio.get_running_loop()
    every_s = min(CHECK_S, front.head_timeout_s, front.write_timeout_s)
    while True:
        due_s = loop.time() + every_s
        await asyncio.sleep(every_s)
        # The one timer that always runs tells how busy the loop is.
        metrics.loop_late(max(0.0, loop.time() - due_s))
        server.check_times(loop.time(), front)


def _watch_stdin(loop: asyncio.AbstractEventLoop, server: _Server) -> None:
    """Stops the server when stdin ends, because the process that held its other end is gone."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # The loop may have ended in the meantime.
        loop.call_soon_threadsafe(server.stop)
