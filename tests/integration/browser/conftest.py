"""What drives a real browser in the tests: Debian's Chromium, by playwright. Where one is missing, they are skipped.

With ``REQUIRE_BROWSER=1`` a missing one fails the tests instead. Every page notes what it complained of and whom it
asked; a test that does not look at that itself fails if there is anything.
"""

from __future__ import annotations

import contextlib
import http.server
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import pytest
from bench.cluster import Cluster
from integration.browser.foreign_site import ForeignSite

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# What the browser itself notes of an answer that is no success; which ones there may be, a test says.
FAILED_ANSWER = "Failed to load resource"


def put(cluster: Cluster, key: str, body: bytes, content_type: str = "text/plain") -> None:
    path = "/v1/kv/" + "".join(f"%{byte:02x}" for byte in key.encode())
    assert cluster.request("PUT", path, body, {"content-type": content_type}).status == 200


def get(cluster: Cluster, key: str) -> tuple[int, bytes]:
    answer = cluster.request("GET", f"/v1/kv/{key}")
    return answer.status, answer.body


@pytest.fixture(scope="module")
def chromium_path() -> str:
    """The program of the browser."""
    path = next(filter(None, map(shutil.which, PROGRAMS)), None)
    missing = []
    if path is None:
        missing.append("no Chromium (Debian: chromium)")
    if importlib.util.find_spec("playwright") is None:
        missing.append("no playwright (`make browser-tools`)")
    if missing:
        reason = "; ".join(missing)
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    assert path is not None
    return path


@pytest.fixture(scope="module")
def launch(chromium_path: str) -> Iterator[Callable[..., Any]]:
    """Starts browsers."""
    with importlib.import_module("playwright.sync_api").sync_playwright() as playwright:
        browsers = []

        def start(*arguments: str) -> Any:
            browser = playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox", *arguments])
            browsers.append(browser)
            return browser

        yield start
        for browser in browsers:
            browser.close()


@pytest.fixture(scope="module")
def browser(launch: Callable[..., Any]) -> Any:
    """A browser for pages of the console."""
    return launch()


@pytest.fixture(scope="module")
def cluster(chromium_path: str, new_cluster: Callable[..., Cluster]) -> Cluster:
    """One cluster for all tests of a module."""
    return new_cluster(shards=2, nodes=3).start()


@pytest.fixture(scope="module")
def strict(chromium_path: str, new_cluster: Callable[..., Cluster]) -> Cluster:
    """A real cluster that asks who one is."""
    cluster = new_cluster(shards=1, nodes=1, options=["--auth"])
    token = cluster.data / "run" / "bootstrap.token"
    cluster.proof = lambda: {"authorization": f"Bearer {token.read_text().strip()}"}
    return cluster.start()


def new_token(cluster: Cluster, name: str, *allow: str) -> str:
    """The token of somebody who may do so much."""
    wanted = json.dumps({"name": name, "allow": allow}).encode()
    answer = cluster.request("POST", "/v1/auth/tokens", wanted, {"content-type": "application/json"})
    assert answer.status == 201, answer.body
    return str(answer.json()["token"])


IMAGE = b'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="90"><circle cx="45" cy="45" r="40" /></svg>'


@pytest.fixture(scope="module")
def values_of_every_kind(cluster: Cluster) -> None:
    """Keys of every kind."""
    for key, content_type, body in (
        ("doc/json", "application/json", b'{"a": [1, 2, {"b": null}], "c": "<b>text</b>"}'),
        ("doc/text", "text/plain", b"plain"),
        ("doc/bytes", "application/octet-stream", bytes(range(256))),
        ("doc/control", "application/octet-stream", b"\0\1"),
        ("doc/image", "image/svg+xml", IMAGE),
        ("<img src=x onerror=document.title=1>", "text/plain", b"a key that looks like markup"),
    ):
        put(cluster, key, body, content_type)


class Served(NamedTuple):
    """A facade over fake nodes.

    Attributes:
        url: Where it is.
        tokens: A token for each role.
    """

    url: str
    tokens: dict[str, str]


SERVE_FAKES = Path(__file__).parents[3] / "services" / "facade" / "tests" / "serve_fakes.py"


@pytest.fixture(scope="module")
def guarded(chromium_path: str) -> Iterator[Served]:
    """A facade that asks who somebody is, over fake nodes: as real as any for a browser, and there at once."""
    with served_over_fakes("--auth") as served:
        yield served


@pytest.fixture(scope="module")
def unguarded(chromium_path: str) -> Iterator[Served]:
    """The same for everybody."""
    with served_over_fakes() as served:
        yield served


@contextlib.contextmanager
def served_over_fakes(*arguments: str) -> Iterator[Served]:
    process = subprocess.Popen(
        [sys.executable, str(SERVE_FAKES), "--endless", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield Served(told["url"], told["tokens"])
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def foreign() -> Iterator[tuple[type[ForeignSite], str]]:
    """The other site, and its address: under ``localhost`` another origin than any facade, under its number too."""
    ForeignSite.seen.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ForeignSite)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield ForeignSite, f"http://localhost:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


class HasUrl(Protocol):
    """What serves the console."""

    @property
    def url(self) -> str: ...


class Tab:
    """A page of the console.

    Attributes:
        page: Playwright's.
        complaints: What went wrong in it.
        hosts: Whom it asked.
        failures: Answers that were no success, as ``status path``.
    """

    def __init__(self, browser: Any, cluster: HasUrl, **options: Any) -> None:
        self.cluster = cluster
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        self.take_page()

    def take_page(self) -> None:
        """Another page of the same browser."""
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.failures: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("response", self._answered)

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning") and FAILED_ANSWER not in message.text:
            self.complaints.append(message.text)

    def _answered(self, response: Any) -> None:
        if response.status >= 400:
            self.failures.append(f"{response.status} {urlsplit(response.url).path}")

    def show(self, place: str) -> Any:
        """Opens a view, and waits until it is there."""
        self.page.goto(f"{self.cluster.url}/ui/{place}")
        self.page.wait_for_selector("main h1:visible, main .card:visible")
        return self.page

    def check(self, *failures: str) -> None:
        """Nothing was complained of, nobody else was asked, and no answer failed but those that may."""
        assert self.complaints == []
        assert {host for host in self.hosts if host} == {urlsplit(self.cluster.url).netloc}
        assert [each for each in self.failures if each not in failures] == []


def sign_in(tab: Tab, token: str, place: str = "") -> Any:
    """Signs in; nobody has yet."""
    page = tab.page
    page.goto(f"{tab.cluster.url}/ui/{place}")
    page.fill("dialog input", token)
    page.click("dialog button:text-is('Sign in')")
    page.wait_for_selector("dialog", state="detached")
    page.wait_for_selector("button:text-is('Sign out')")
    return page


@pytest.fixture
def tab(browser: Any, cluster: Cluster) -> Iterator[Callable[..., Tab]]:
    """Opens tabs of the console; each has what a browser keeps to itself."""
    opened: list[Tab] = []

    def open_tab(**options: Any) -> Tab:
        opened.append(Tab(browser, cluster, **options))
        return opened[-1]

    yield open_tab
    for each in opened:
        each.context.close()


@pytest.fixture
def open_tab(browser: Any) -> Iterator[Callable[..., Tab]]:
    """Opens tabs of whatever console a test names."""
    opened: list[Tab] = []

    def open_one(served: HasUrl, **options: Any) -> Tab:
        opened.append(Tab(browser, served, **options))
        return opened[-1]

    yield open_one
    for each in opened:
        each.context.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures of what was tested go: to ``CONSOLE_PICTURES``, if that is set, for people to look at."""
    folder = Path(os.environ.get("CONSOLE_PICTURES") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
