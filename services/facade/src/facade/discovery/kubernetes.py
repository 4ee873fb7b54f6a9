"""Targets from the Kubernetes API: EndpointSlices, listed once and then watched.

One list gives the slices and a version; a watch from that version tells every later change, and is taken up again from
the last version that was seen. Only an API server that has forgotten the version (410) makes a new list necessary,
which is compared with what is known. Must not know shards' states or connections.

Invariants:
    1. While the API server is away, refuses or talks nonsense, what was published last stays.
    2. No read waits for ever: a connection whose other end has vanished is given up after the watch's own time.
    3. A missing permission is told once, by verb and resource, not at every try.

Source: docs/kubernetes.md, Discovery.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncGenerator, Mapping
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import structlog
from kubernetes.aio import client as api
from kubernetes.aio import config as api_config

from facade.discovery.metrics import DiscoveryMetrics
from facade.discovery.slices import Change, Slices
from facade.discovery.targets import Discovery, Publish
from facade.errors import SettingsError

SOURCE = "kubernetes"
WATCH_S = 60
"""How long the server keeps one watch open. Asking again costs one request a minute, and finds dead connections."""
READ_MARGIN_S = 15.0
LIST_S = 10.0
BACKOFF_MIN_S = 1.0
BACKOFF_MAX_S = 30.0
PATIENCE_S = 2.0
"""How long a start waits for the API server alone: names would only be replaced by addresses a moment later."""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

log = structlog.get_logger()


class _GoneError(Exception):
    """The API server has forgotten the version that we know."""


class _ForbiddenError(Exception):
    """The service account has not the right to the action that ``verb`` names."""

    def __init__(self, verb: str) -> None:
        super().__init__(verb)
        self.verb = verb


class _AnswerError(Exception):
    """The API server's answer makes no sense."""


FAILURES = (aiohttp.ClientError, OSError, TimeoutError, ValueError, api.ApiException, _AnswerError)
"""The errors of a try while the server is away, restarts or talks nonsense."""


def in_cluster() -> api.Configuration:
    """The configuration by which a pod reaches the API server with its service account; renewed tokens are read.

    Raises:
        SettingsError: This is no pod with a service account.
    """
    configuration = api.Configuration()
    try:
        api_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except api_config.ConfigException as error:
        raise SettingsError("DOUGDB_DISCOVERY", f"kubernetes needs a pod with a service account: {error}") from error
    return configuration


def own_namespace() -> str:
    """The namespace of the pod that this process runs in.

    Raises:
        SettingsError: This is no pod with a service account.
    """
    try:
        return NAMESPACE_FILE.read_text().strip()
    except OSError as error:
        raise SettingsError("DOUGDB_KUBERNETES_NAMESPACE", "it is not set, and this is no pod that knows it") from error


class KubernetesDiscovery:
    """Watches the EndpointSlices of one namespace."""

    def __init__(
        self,
        configuration: api.Configuration,
        namespace: str,
        selector: str,
        port_name: str,
        metrics: DiscoveryMetrics,
        *,
        domains: Mapping[int, str] = MappingProxyType({}),
        instead: Discovery | None = None,
        watch_s: int = WATCH_S,
        backoff_s: tuple[float, float] = (BACKOFF_MIN_S, BACKOFF_MAX_S),
    ) -> None:
        """Takes the settings of the watch.

        Args:
            configuration: The address and credentials of the API server.
            namespace: The namespace of the slices.
            selector: The labels of the slices.
            port_name: The port of the Services where the nodes serve Doug.
            metrics: The figures of discovery.
            domains: By shard, the domain of its nodes' names; where it is missing, that of the slice's Service.
            instead: The source that is asked for as long as the API server has not answered at all.
            watch_s: How long one watch lasts.
            backoff_s: The shortest and the longest pause after a failure.
        """
        self._configuration = configuration
        self._namespace = namespace
        self._selector = selector
        self._metrics = metrics
        self._instead = instead
        self._watch_s = watch_s
        self._backoff_s = backoff_s
        self._slices = Slices(port_name, domains)
        self._version = ""
        self._reason = "start"
        self._forbidden = ""
        self._failing = False
        self._failed = asyncio.Event()

    def hurry(self) -> None:
        """Has the source that is asked instead look again; the watch tells changes by itself."""
        if self._instead is not None:
            self._instead.hurry()

    async def run(self, publish: Publish) -> None:
        """Lists and watches until cancelled."""
        async with api.ApiClient(self._configuration) as client, asyncio.TaskGroup() as group:
            substitute = group.create_task(self._stand_in(publish))
            await self._run(api.DiscoveryV1Api(client), publish, substitute)

    async def _stand_in(self, publish: Publish) -> None:
        """Asks the other source once the API server has failed to answer. ``_run`` ends this when it does answer."""
        if self._instead is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await self._failed.wait()
            await self._instead.run(publish)

    async def _run(self, discovery: api.DiscoveryV1Api, publish: Publish, substitute: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()
        tries = 0
        while True:
            started_s = loop.time()
            try:
                if not self._version:
                    await self._list(discovery)
                    substitute.cancel()
                    publish(self._slices.targets())
                async with contextlib.aclosing(self._watch(discovery)) as events:
                    async for kind, item in events:
                        tries = 0
                        self._take(kind, item, publish)
                tries = 0
                self._succeeded()
                # A server that ends every watch at once must not be asked in a tight loop.
                await asyncio.sleep(max(0.0, self._backoff_s[0] - (loop.time() - started_s)))
                continue
            except _GoneError:
                self._version, self._reason = "", "expired"
                if tries == 0:
                    tries = 1
                    continue
            except _ForbiddenError as error:
                self._tell_forbidden(error.verb)
            except FAILURES as error:
                self._tell_failure(error)
            self._failed.set()
            shortest_s, longest_s = self._backoff_s
            delay_s = min(longest_s, shortest_s * 2 ** min(tries, 10))
            tries += 1
            await asyncio.sleep(delay_s * random.uniform(0.75, 1.25))  # noqa: S311 - it only spreads the facades

    async def _list(self, discovery: api.DiscoveryV1Api) -> None:
        self._metrics.relist(self._reason)
        async with asyncio.timeout(LIST_S):
            response = await discovery.list_namespaced_endpoint_slice_without_preload_content(
                self._namespace, label_selector=self._selector
            )
            async with response:
                self._check(response.status, "list")
                document = json.loads(await response.read())
        try:
            self._version = str(document["metadata"]["resourceVersion"])
            items = list(document["items"])
        except (KeyError, TypeError) as error:
            raise _AnswerError(f"the list has no {error}") from None
        self._count(self._slices.replace(items))
        self._succeeded()

    async def _watch(self, discovery: api.DiscoveryV1Api) -> AsyncGenerator[tuple[str, Mapping[str, Any]], None]:
        """The events of one watch, until the server ends it."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._watch_s + READ_MARGIN_S
        async with asyncio.timeout_at(ends_s):
            response = await discovery.list_namespaced_endpoint_slice_without_preload_content(
                self._namespace,
                label_selector=self._selector,
                watch=True,
                allow_watch_bookmarks=True,
                resource_version=self._version,
                timeout_seconds=self._watch_s,
            )
        async with response:
            self._check(response.status, "watch")
            while True:
                async with asyncio.timeout_at(ends_s):
                    line = await response.content.readline()
                if not line:
                    return
                event = json.loads(line)
                if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
                    raise _AnswerError("an event that is none")
                yield str(event.get("type")), event["object"]

    def _take(self, kind: str, item: Mapping[str, Any], publish: Publish) -> None:
        if kind == "ERROR":
            code = item.get("code")
            if code == HTTPStatus.GONE:
                raise _GoneError
            raise _AnswerError(f"the watch ended with {code}: {item.get('message')}")
        version = (item.get("metadata") or {}).get("resourceVersion")
        if not version:
            raise _AnswerError("an event without a version")
        self._version = str(version)
        self._succeeded()
        change = self._slices.apply(kind, item)
        if change != Change():
            self._count(change)
            publish(self._slices.targets())

    def _check(self, status: int, verb: str) -> None:
        if status == HTTPStatus.GONE:
            raise _GoneError
        if status == HTTPStatus.FORBIDDEN:
            raise _ForbiddenError(verb)
        if status != HTTPStatus.OK:
            raise _AnswerError(f"{verb} was answered with {status}")

    def _count(self, change: Change) -> None:
        for kind, number in zip(("added", "changed", "removed"), change, strict=True):
            self._metrics.event(SOURCE, kind, number)

    def _succeeded(self) -> None:
        self._metrics.succeeded(SOURCE)
        if self._failing or self._forbidden:
            log.warning("discovery.recovered", source=SOURCE)
        self._failing, self._forbidden = False, ""

    def _tell_forbidden(self, verb: str) -> None:
        self._metrics.failed(SOURCE, "forbidden")
        if self._forbidden != verb:
            self._forbidden = verb
            log.error(
                "discovery.forbidden",
                verb=verb,
                resource="endpointslices.discovery.k8s.io",
                namespace=self._namespace,
                hint="the Role of this pod's ServiceAccount needs get, list and watch; known addresses stay in use",
            )

    def _tell_failure(self, error: Exception) -> None:
        self._metrics.failed(SOURCE, "unavailable")
        if not self._failing:
            self._failing = True
            log.warning("discovery.failing", source=SOURCE, error=str(error) or type(error).__name__)
