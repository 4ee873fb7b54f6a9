"""The ASGI application: the key routes in front, FastAPI behind them.

Must not know sockets or processes. Invariant: a path under /v1/kv never reaches FastAPI, so that no framework ever
decodes, redirects or normalises a key.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from time import perf_counter
from typing import Any

import structlog
from fastapi import FastAPI

from doug_wire.excess import Excess
from doug_wire.networks import network_of
from facade import __version__
from facade.app.audit import Audit
from facade.app.exchange import DATA_PREFIX, refusal
from facade.app.front import Front
from facade.app.gate import Gate
from facade.app.hot import HotLane
from facade.app.methods import HEAD, OPTIONS, App, has_head, head_of_get, tell_methods
from facade.app.onlooker import Onlooker
from facade.app.origins import Origins
from facade.app.quotas import Operations
from facade.app.rules import Rules
from facade.client.access import Caller, current, peer, sender
from facade.client.auth_state import AuthState
from facade.client.metrics import UNMATCHED, Metrics
from facade.client.router import Router
from facade.console.app import Console
from facade.errors import BadRequestError, ProblemError, UnauthenticatedError, UnexpectedError
from facade.routes import auth, docs, health, limits, openapi, problem
from facade.routes.batch import BatchApp
from facade.routes.body import Receive
from facade.routes.key import KEY_PREFIX
from facade.routes.kv import KvApp
from facade.routes.operators import backup, cluster, leadership, members, timeline
from facade.routes.ops import OPS_PREFIX, OpsApp
from facade.routes.ranges.routes import RangeApp
from facade.routes.raw import REQUEST_ID, RawApp, Scope, Send, named, request_id_of
from facade.routes.txn import TxnApp
from facade.routes.watch.audience import Audience
from facade.routes.watch.ids import cluster_of
from facade.routes.watch.long_poll import LongPolls
from facade.routes.watch.routes import PROGRESS_PATH, WATCH_PATH, ProgressApp, WatchApp
from facade.settings import Settings

_KEYS = KEY_PREFIX + b"/"
_ACTIONS = KEY_PREFIX + b":"
_NAMED = b"key64="
_OF_KEYS = (KEY_PREFIX, b"/v1/batch", b"/v1/txn", b"/v1/watch", OPS_PREFIX)
"""The paths whose requests are counted: operators and probes must get through while clients send too much."""
log = structlog.get_logger()

READING = frozenset({"GET", "POST"})
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class Application:
    """The application: hands raw routes to their handlers, and everything else to FastAPI.

    Attributes:
        console: The console, if it is enabled.
        front: The limits and counts that all connections share.
        audience: The watches that have seen all changes so far. Requires: a task calls its ``run``.
        hot: The short way for plain requests, for connections that use it.
    """

    def __init__(
        self,
        router: Router,
        metrics: Metrics,
        settings: Settings,
        state: AuthState | None = None,
        gate: Gate | None = None,
    ) -> None:
        assert (gate is not None) == settings.guarded, "requests are let in by a gate, or by anyone"
        self._gate = gate
        self._rules = Rules()
        # A gate has an audit log of its own, and knows the principals.
        onlooker = Onlooker(Audit(settings.audit_file, metrics.registry)) if settings.audit_file and not gate else None
        self._witness = gate or onlooker
        self.batch, self._txns = BatchApp(router, metrics, settings), TxnApp(router, metrics, settings)
        self._exact: dict[bytes, RawApp | RangeApp] = {
            b"/v1/batch": self.batch,
            b"/v1/txn": self._txns,
        }
        feeds = router.feeds
        self.audience = Audience(lambda: feeds.open_feeds, lambda: _place(router), metrics.watches)
        metrics.watches.catching_up = lambda: feeds.catching_up
        metrics.watches.lags = lambda: dict.fromkeys(router.shards, 0) | {f.shard.id: f.lag for f in feeds.open_feeds}
        feeds.on_events, feeds.on_gone = self.audience.publish, lambda error: self.audience.lost(error.shard)
        self.polls = LongPolls(router, feeds, self.audience, metrics, settings)
        self._keys = KvApp(router, metrics, settings, self.polls)
        self._exact[WATCH_PATH] = WatchApp(router, metrics, settings, feeds, self.audience)
        self._exact[PROGRESS_PATH] = ProgressApp(metrics, feeds, self.audience)
        self._ops = OpsApp(router, metrics)
        self._ranges = RangeApp(router, metrics, settings)
        self._rest = make_fastapi(router, metrics, settings, state, gate)
        self._metrics = metrics
        self._origins = Origins(settings.cors_origins)
        self.console = Console(router, metrics, settings) if settings.console_enabled else None
        self.front = Front(settings, metrics)
        self.front.audit = None if self._witness is None else self._witness.audit
        if self.front.audit is not None:
            self._note_excess(Excess(self.front.audit.limited), router)
        self.hot = HotLane(router, metrics, self.front, gate)
        self.batch.quota = self._txns.quota = Operations(self.front.quotas, self._principal)

    def _note_excess(self, excess: Excess, router: Router) -> None:
        """Has the audit log told of clients that are refused because they ask for more than their part."""
        for each in (self.front.quotas, router.registry, *self._metrics.places):
            each.on_refused = excess.note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        raw_path: bytes = scope["raw_path"]
        method: str = scope["method"]
        if self.console is not None and (console := self.console.app_of(raw_path, scope)) is not None:
            # Not counted among the requests under way: a stream of the console would count for ever.
            await self._serve_console(console, scope, receive, send)
            return
        if self._origins.share:
            if method == "OPTIONS" and (headers := self._origins.preflight(scope["headers"])) is not None:
                await send({"type": "http.response.start", "status": 204, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
            send = self._origins.sharing(scope["headers"], send)
        self._metrics.inflight += 1
        try:
            self._check_origin(scope)
            self._admit(scope)
            self._count(raw_path, scope)
            if raw_path.startswith(DATA_PREFIX) and method in READING:
                self.front.check_unread(peer.get())
            if method == OPTIONS and await self._tell_methods(scope, send):
                return
            app = self._keys if raw_path.startswith(_KEYS) else self._raw(raw_path, scope)
            serve: App = self._counted if app is None else app
            if method == HEAD and not has_head(app) and HEAD in self._rules.methods(raw_path, scope["path"]):
                serve = head_of_get(serve)
            if app is None:
                await serve(scope, receive, send)
                return
            try:
                await serve(scope, receive, send)
            except Exception as error:  # noqa: BLE001 - a defect; the border where one request ends, and no other
                await self._tell_defect(error, app.route, scope, send)
        except ProblemError as error:  # Raised by the calls at the beginning: routes answer their own errors.
            self._metrics.request(method if method in METHODS else "other", error.status, "none", 0.0, UNMATCHED)
            await refusal(error)(scope, receive, send)
        finally:
            self._metrics.inflight -= 1

    def _check_origin(self, scope: Scope) -> None:
        """Refuses what a foreign page may have had sent; raises what ``Origins.check`` does."""
        try:
            self._origins.check(scope["method"], scope["raw_path"], scope["headers"])
        except BadRequestError as error:
            self.front.turned_away(scope, error)
            raise

    def _admit(self, scope: Scope) -> None:
        """Has the gate let a request in, and counts it if its sender is a stranger; raises what ``Gate.admit`` does.

        Raises:
            TooManyRequestsError: The stranger's address has used up its share.
        """
        if self._gate is None:
            return
        try:
            self._gate.admit(scope)
        except UnauthenticatedError:
            if self.front.quotas.counts:
                self.front.quotas.take_stranger(_network(scope))
            raise

    def _count(self, raw_path: bytes, scope: Scope) -> None:
        """Notes whose share the request takes, and counts it if it is one of keys.

        Raises:
            TooManyRequestsError: The client or address has used up its share.
        """
        principal, network = self._note_sender(scope)
        if self.front.quotas.counts and raw_path.startswith(_OF_KEYS):
            self.front.quotas.take(principal, network)

    def _note_sender(self, scope: Scope) -> tuple[str, str]:
        """Notes whose share the request takes: its principal's, or its address's; returns both."""
        network, principal = _network(scope), self._principal()
        sender.set(principal or network)
        peer.set(network)
        return principal, network

    def _principal(self) -> str:
        """The sender of the request that is being served; empty while clients need not say who they are."""
        return "" if self._gate is None else current.get().access.name

    async def _serve_console(self, console: RawApp, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        try:
            self._check_origin(scope)
            self._admit(scope)
        except ProblemError as error:
            method = method if method in METHODS else "other"
            self._metrics.request(method, error.status, "none", 0.0, console.route)
            await refusal(error)(scope, receive, send)
            return
        self._note_sender(scope)
        if self._witness is None:
            await console(scope, receive, send)
            return
        status = 500

        async def observe(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await console(scope, receive, observe)
        finally:
            self._witness.done(scope, status)

    async def _tell_methods(self, scope: Scope, send: Send) -> bool:
        """Answers ``OPTIONS``, if there is something at the path; returns whether there is."""
        raw_path = scope["raw_path"]
        rule = self._rules.find(OPTIONS, raw_path, scope["path"])
        if rule is not None:
            app = self._keys if raw_path.startswith(_KEYS) else self._raw(raw_path, scope)
            methods = self._rules.methods(raw_path, scope["path"]) if app is None else app.methods_at(raw_path)
            await tell_methods(methods, scope, send)
            self._metrics.request(OPTIONS, 204, "none", 0.0, UNMATCHED if rule.route == "*" else rule.route)
        return rule is not None

    def _raw(self, raw_path: bytes, scope: Scope) -> RawApp | RangeApp | None:
        """The raw handler of a path that is not below the keys; None for paths that FastAPI serves."""
        if raw_path == KEY_PREFIX:
            # One key of any bytes, or a range of keys.
            named = any(part.startswith(_NAMED) for part in scope["query_string"].split(b"&"))
            return self._keys if named else self._ranges
        if raw_path.startswith(_ACTIONS):
            return self._keys
        return self._ops if raw_path.startswith(OPS_PREFIX) else self._exact.get(raw_path)

    async def _tell_defect(self, error: Exception, route: str, scope: Scope, send: Send) -> None:
        """Handles an unexpected error of a raw route: logs it, counts it, and answers if nothing has answered yet."""
        problem_error = UnexpectedError()
        method, request_id = scope["method"], request_id_of(scope)
        log.error("request.failed", method=method, request=request_id.decode(), reason=repr(error), exc_info=error)
        self._metrics.request(method if method in METHODS else "other", problem_error.status, "none", 0.0, route)
        content = problem.document(problem_error)
        headers = [*problem.headers(problem_error, content), (REQUEST_ID, request_id)]
        try:
            await send({"type": "http.response.start", "status": problem_error.status, "headers": headers})
        except RuntimeError:
            # The answer had begun. uvicorn cuts the connection, so that no client takes a part for the whole.
            raise error from None
        await send({"type": "http.response.body", "body": content})

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one of FastAPI's routes and counts it by its template."""
        status = 500

        async def observe(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await named_send(message)

        named_send = named(scope, send)
        started_s = perf_counter()
        try:
            await self._rest(scope, receive, observe)
        finally:
            if self._witness is not None:
                self._witness.done(scope, status)
            route = getattr(scope.get("route"), "path", UNMATCHED)
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.request(method, status, "none", perf_counter() - started_s, route)


def _place(router: Router) -> tuple[str, int]:
    """The cluster, as ids of watches name it, and the epoch of its map."""
    directory = router.directory
    return cluster_of(directory.cluster_id), 0 if directory.map is None else directory.map.epoch


def _untold(caller: Caller, what: str, name: str, may: Sequence[str]) -> None:
    """Does nothing: stands for the audit log while there are no users who could be changed."""


def make_fastapi(
    router: Router,
    metrics: Metrics,
    settings: Settings,
    state: AuthState | None = None,
    gate: Gate | None = None,
) -> FastAPI:
    """Makes the application that serves all but the raw routes; without ``state`` and ``gate`` it serves anyone."""
    app = FastAPI(
        title="DougDB",
        version=__version__,
        description="A distributed key-value store: keys are partitioned over several Raft clusters.",
        redirect_slashes=False,
        docs_url=None,  # FastAPI's own page loads scripts from another server.
        redoc_url=None,
        # FastAPI would trace and count by itself, without our sampler (docs/tracing.md).
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    problem.install(app)
    app.include_router(cluster.make_router(router, settings, metrics))
    app.include_router(limits.make_router(settings))
    app.include_router(timeline.make_router(router))
    app.include_router(leadership.make_router(router, settings))
    app.include_router(members.make_router(router, settings))
    app.include_router(backup.make_router(router, settings))
    tell = _untold if gate is None else gate.audit.changed
    app.include_router(auth.make_router(settings, state, tell, sessions=gate))
    app.include_router(health.make_router(router, metrics))
    openapi.install(app)
    docs.install(app)
    return app


def _network(scope: Scope) -> str:
    """What limits by address count a request by; empty if its address is not known."""
    return network_of(scope["client"][0]) if scope.get("client") else ""
