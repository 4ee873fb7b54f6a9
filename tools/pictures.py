"""Makes the pictures of the console in docs/images, from a real cluster with a load on it, so that they stay true.

``make pictures`` runs it. It needs Debian's chromium, and playwright (``make browser-tools``). It notes in a manifest
what each picture was made of: the modules of its view, with all that these import, the style sheet and the frame, but
for the comments in them. A test compares, so that whoever changes what a picture shows makes it again; after a change
that cannot be seen in any of them, ``make pictures ARGS=--same`` notes that they are as they would be.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.cluster import Cluster
from bench.http11 import HttpError

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs/images"
STATIC = ROOT / "services/facade/src/facade/console/static"
MANIFEST = "console.json"
FRAME = ("index.html", "app.css", "icon.svg", "js/app.js")
IMPORTED = re.compile(r'\bfrom "(\.{1,2}/[^"]+)"')
COMMENT = re.compile(r"^[ \t]*(/\*.*?\*/|//[^\n]*)[ \t]*\n", re.DOTALL | re.MULTILINE)
"""What is a line, or some, of a module or style sheet by itself, and nothing that one sees."""
DIGITS = 16
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1280, "height": 860}
LOAD_S = 30.0
VIEWS = {
    "console-cluster": ("", "light"),
    "console-shard": ("#/shard/0", "dark"),
    "console-keys": ("#/keys?prefix=shop%2F&key=shop%2Forders%2F0042", "light"),
    "console-timeline": ("#/timeline?shard=0", "dark"),
    "console-slots": ("#/slots", "light"),
    "console-graphs": ("#/graphs", "light"),
    "console-try": ("#/try", "light"),
}


def sources_of(place: str) -> list[Path]:
    """The files that make a view look as it does."""
    view = place.removeprefix("#/").replace("?", "/").split("/")[0] or "cluster"
    left = [*(STATIC / name for name in FRAME), STATIC / f"js/views/{view}.js"]
    found = {path for path in (STATIC / "vendor").iterdir() if path.suffix in (".js", ".css")}
    while left:
        path = left.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix == ".js":
            left += [(path.parent / name).resolve() for name in IMPORTED.findall(path.read_text(encoding="utf-8"))]
    return sorted(found)


def _digest(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(b"%d\0%b" % (len(content), content))
    return digest.hexdigest()[:DIGITS]


def shown_by(place: str) -> str:
    """A digest of what a view is made of."""
    contents = [(path.relative_to(STATIC).as_posix(), path.read_bytes()) for path in sources_of(place)]
    return _digest(*(part for name, data in contents for part in (name.encode(), _without_comments(name, data))))


def _without_comments(name: str, data: bytes) -> bytes:
    if name.startswith("vendor/") or not name.endswith((".js", ".css")):
        return data
    return COMMENT.sub("", data.decode()).encode()


def manifest() -> dict[str, dict[str, str]]:
    """The pictures that there are, and what they would be made of now."""
    return {
        f"{name}.png": {"picture": _digest((IMAGES / f"{name}.png").read_bytes()), "shows": shown_by(place)}
        for name, (place, _) in VIEWS.items()
    }


def old() -> Iterator[str]:
    """The pictures that are not those of the manifest, or were made of something else than what is there now."""
    noted = json.loads((IMAGES / MANIFEST).read_text(encoding="utf-8"))
    for name, now in manifest().items():
        if noted.get(name) != now:
            yield name


def note() -> None:
    """Notes of what the pictures are made."""
    (IMAGES / MANIFEST).write_text(json.dumps(manifest(), indent=2) + "\n", encoding="utf-8")


def fill(cluster: Cluster) -> None:
    """Puts keys and values as a shop might have them."""
    lines = []
    for number in range(200):
        order = {"id": number, "customer": f"c{number % 17}", "items": [{"sku": f"A{number % 9}", "count": 2}]}
        content = {"content_type": "application/json", "value": json.dumps(order)}
        lines.append(json.dumps({"op": "put", "key": f"shop/orders/{number:04}", **content}))
        lines.append(json.dumps({"op": "put", "key": f"shop/customers/c{number % 17}", "value": f"Customer {number}"}))
    cluster.request("POST", "/v1/batch", "\n".join(lines).encode(), {"content-type": "application/x-ndjson"})


@contextlib.contextmanager
def load(cluster: Cluster) -> Iterator[None]:
    """Writes as fast as one client can, for the time of the block."""
    ended = threading.Event()

    def write() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            with contextlib.suppress(HttpError, OSError):
                cluster.request("PUT", f"/v1/kv/load/{number % 500}", b"v" * 200)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes all pictures, or notes that they are as they would be."""
    parser = argparse.ArgumentParser(prog="make pictures", description="Makes the pictures of the console.")
    parser.add_argument("--same", action="store_true", help="note that all look as they would, and make none")
    if parser.parse_args(arguments).same:
        note()
        return 0
    return make()


def make() -> int:
    """Makes all pictures."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        print("pictures: there is no Chromium (Debian: chromium)", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), shards=2, nodes=5)
        try:
            cluster.start()
            fill(cluster)
            with load(cluster), importlib.import_module("playwright.sync_api").sync_playwright() as playwright:
                time.sleep(LOAD_S / 2)
                cluster.kill(cluster.await_leader("0").id)
                time.sleep(LOAD_S / 2)
                browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
                for name, (place, scheme) in VIEWS.items():
                    page = browser.new_page(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")
                    page.goto(f"{cluster.url}/ui/{place}")
                    page.wait_for_selector("main h1")
                    if name == "console-slots":
                        page.select_option("select", "rate")
                        page.fill("label:has-text('Slot of key') input", "shop/orders/0042")
                        page.click("button:text-is('Find')")
                    if name == "console-try":
                        page.click("button:text-is('Put')")
                    page.wait_for_timeout(2500)
                    # What happened just now is told over what is to be seen.
                    page.eval_on_selector_all(".note button", "(all) => all.forEach((each) => each.click())")
                    page.wait_for_timeout(100)
                    # What the last step offers is at the end of the page.
                    page.screenshot(path=IMAGES / f"{name}.png", full_page=name == "console-try")
                    print(f"docs/images/{name}.png")
                    page.close()
                browser.close()
        finally:
            cluster.close()
    note()
    return 0


if __name__ == "__main__":
    sys.exit(main())
